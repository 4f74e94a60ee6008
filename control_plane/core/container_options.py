"""What a manifest may say of its container besides image, environment and limits, and what makes it impossible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from fleet.errors import invalid
from fleet.ids import check_id
from fleet.signatures import KEYS_MAX, load_key

FILE_BYTES_MAX: Final = 256 * 1024
FILES_BYTES_MAX: Final = 1024 * 1024
FILES_MAX: Final = 64
VOLUMES_MAX: Final = 64
LOG_FILES_MAX: Final = 100
SECRETS_MAX: Final = 64
SECRET_ID_LENGTH_MAX: Final = 63

_VOLUME_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_CAPABILITY = re.compile(r"[A-Z][A-Z0-9_]{1,40}")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_USER = re.compile(r"[A-Za-z0-9_.-]{0,64}(?::[A-Za-z0-9_.-]{1,64})?")
_BAD_IN_PATHS = re.compile(r"[\x00-\x1f\x7f:]")
_ULIMITS: Final = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)


@dataclass(frozen=True, slots=True)
class Volume:
    """A place in the container that does not come from the image."""

    path: str
    kind: Literal["named", "host", "tmpfs"] = "tmpfs"
    source: str = ""
    size_bytes: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A small file that the container finds."""

    path: str
    content: str
    mode: int = 0


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit of the kernel; `hard` 0 means `soft`."""

    name: str
    soft: int
    hard: int = 0


@dataclass(frozen=True, slots=True)
class SecretMount:
    """A secret that the container gets, in its environment or as a file."""

    secret: str
    version: int = 0
    env: str = ""
    path: str = ""
    mode: int = 0


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """Everything of the kind; zero values are the defaults."""

    volumes: tuple[Volume, ...] = ()
    files: tuple[ConfigFile, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    drop_all_capabilities: bool = False
    read_only_root: bool = False
    privileged: bool = False
    ulimits: tuple[Ulimit, ...] = ()
    user: str = ""
    working_dir: str = ""
    log_bytes_max: int = 0
    log_files_max: int = 0
    public_keys: tuple[str, ...] = ()
    secrets: tuple[SecretMount, ...] = ()


def check(options: ContainerOptions) -> None:
    """Raises INVALID_ARGUMENT that names the field at fault. What a host allows is its own policy's business."""
    _check_volumes(options.volumes)
    _check_files(options.files)
    _check_secrets(options.secrets)
    mounted = [mount.path or f"/run/secrets/{mount.secret}" for mount in options.secrets if not mount.env]
    _check_twice([*(volume.path for volume in options.volumes), *(file.path for file in options.files), *mounted])
    _check_privileges(options)
    if not _USER.fullmatch(options.user):
        raise invalid("manifest.user", f"manifest.user: {options.user!r} is not of the form user[:group]")
    if options.working_dir:
        _check_path("manifest.working_dir", options.working_dir)
    if options.log_files_max > LOG_FILES_MAX:
        at = "manifest.log_rotation.max_files"
        raise invalid(at, f"{at}: {options.log_files_max} is more than {LOG_FILES_MAX}")
    _check_keys(options.public_keys)


def _check_volumes(volumes: tuple[Volume, ...]) -> None:
    if len(volumes) > VOLUMES_MAX:
        raise invalid("manifest.volumes", f"manifest.volumes: {len(volumes)} are too many; at most {VOLUMES_MAX}")
    for index, volume in enumerate(volumes):
        at = f"manifest.volumes[{index}]"
        _check_path(f"{at}.path", volume.path)
        if volume.kind == "named" and not _VOLUME_NAME.fullmatch(volume.source):
            raise invalid(f"{at}.name", f"{at}.name: {volume.source!r} must be 1-40 of a-z, 0-9 and '-'")
        if volume.kind == "host":
            _check_path(f"{at}.host_path", volume.source)


def _check_files(files: tuple[ConfigFile, ...]) -> None:
    if len(files) > FILES_MAX:
        raise invalid("manifest.files", f"manifest.files: {len(files)} are too many; at most {FILES_MAX}")
    sizes = [len(file.content.encode()) for file in files]
    for index, (file, size) in enumerate(zip(files, sizes, strict=True)):
        at = f"manifest.files[{index}]"
        _check_path(f"{at}.path", file.path)
        if size > FILE_BYTES_MAX:
            raise invalid(f"{at}.content", f"{at}.content: {size} bytes are too many; at most {FILE_BYTES_MAX}")
        if not 0 <= file.mode <= 0o777:
            raise invalid(f"{at}.mode", f"{at}.mode: {file.mode} is not from 0 to 511, which is octal 0777")
    if sum(sizes) > FILES_BYTES_MAX:
        raise invalid("manifest.files", f"manifest.files: {sum(sizes)} bytes in all; at most {FILES_BYTES_MAX}")


def _check_secrets(mounts: tuple[SecretMount, ...]) -> None:
    if len(mounts) > SECRETS_MAX:
        raise invalid("manifest.secrets", f"manifest.secrets: {len(mounts)} are too many; at most {SECRETS_MAX}")
    for index, mount in enumerate(mounts):
        at = f"manifest.secrets[{index}]"
        check_id(mount.secret, f"{at}.secret", SECRET_ID_LENGTH_MAX)
        if mount.env and (mount.path or mount.mode):
            raise invalid(at, f"{at}: it is a file (path, mode) or in the environment (env), not both")
        if mount.env and not _ENV.fullmatch(mount.env):
            raise invalid(f"{at}.env", f"{at}.env: {mount.env!r} is no name of an environment variable")
        if mount.path:
            _check_path(f"{at}.path", mount.path)
        if not 0 <= mount.mode <= 0o777:
            raise invalid(f"{at}.mode", f"{at}.mode: {mount.mode} is not from 0 to 511, which is octal 0777")
    _check_twice([mount.env for mount in mounts if mount.env], "manifest.secrets")


def _check_privileges(options: ContainerOptions) -> None:
    for index, name in enumerate(options.add_capabilities):
        at = f"manifest.security.add_capabilities[{index}]"
        if not _CAPABILITY.fullmatch(name) or name.startswith("CAP_"):
            raise invalid(at, f"{at}: {name!r} is not of the form NET_ADMIN")
    for index, limit in enumerate(options.ulimits):
        at = f"manifest.ulimits[{index}]"
        if limit.name not in _ULIMITS:
            raise invalid(f"{at}.name", f"{at}.name: {limit.name!r} is not one of {', '.join(sorted(_ULIMITS))}")
        if limit.soft < 0 or (limit.hard and limit.hard < limit.soft):
            raise invalid(at, f"{at}: soft and hard must be 0 or more, and hard not below soft")
    _check_twice([limit.name for limit in options.ulimits], "manifest.ulimits")


def _check_keys(keys: tuple[str, ...]) -> None:
    if len(keys) > KEYS_MAX:
        at = "manifest.verification.public_keys"
        raise invalid(at, f"{at}: at most {KEYS_MAX}, not {len(keys)}")
    for index, pem in enumerate(keys):
        at = f"manifest.verification.public_keys[{index}]"
        try:
            load_key(pem)
        except ValueError as error:
            raise invalid(at, f"{at}: {error}") from error


def _check_path(field: str, path: str) -> None:
    if not path.startswith("/") or path == "/" or ".." in path.split("/") or _BAD_IN_PATHS.search(path):
        message = f"{field}: {path!r} must be absolute, without '..', ':' and control characters, and not '/' itself"
        raise invalid(field, message)


def _check_twice(names: Iterable[str], field: str = "manifest.volumes") -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise invalid(field, f"{field}: {name} is given twice")
        seen.add(name)
