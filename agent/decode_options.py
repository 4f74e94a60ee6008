"""The container options of a replica: what there is to say against them, and what they mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from agent.core.options import (
    FILE_MODE_DEFAULT,
    LOG_BYTES_DEFAULT,
    LOG_FILES_DEFAULT,
    TMPFS_BYTES_DEFAULT,
    ConfigFile,
    Options,
    SecretFile,
    Ulimit,
    Volume,
)
from fleet.signatures import KEYS_MAX, load_key
from locci.v1 import container_pb2, resource_pb2

FILE_BYTES_MAX: Final = 256 * 1024
FILES_MAX: Final = 64
VOLUMES_MAX: Final = 64

_VOLUME_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_CAPABILITY = re.compile(r"[A-Z][A-Z0-9_]{1,40}")
_ULIMIT = re.compile(r"[a-z]{2,16}")
_USER = re.compile(r"[A-Za-z0-9_.-]{0,64}(?::[A-Za-z0-9_.-]{1,64})?")
_BAD_IN_PATHS = re.compile(r"[\x00-\x1f\x7f:]")


def problems(spec: resource_pb2.ReplicaSpec) -> Iterator[str]:
    """What an agent cannot do, in sentences that name the field."""
    if len(spec.volumes) > VOLUMES_MAX or len(spec.files) > FILES_MAX:
        yield f"volumes, files: at most {VOLUMES_MAX} and {FILES_MAX}"
    for index, volume in enumerate(spec.volumes):
        yield from _volume_problems(f"volumes[{index}]", volume)
    for index, file in enumerate(spec.files):
        yield from _path_problems(f"files[{index}].path", file.path)
        if len(file.content.encode()) > FILE_BYTES_MAX:
            yield f"files[{index}].content: more than {FILE_BYTES_MAX} bytes"
        if file.mode & ~0o777:
            yield f"files[{index}].mode: {file.mode:o} (octal) is more than 777"
    for path, count in Counter([v.path for v in spec.volumes] + [f.path for f in spec.files]).items():
        if count > 1:
            yield f"volumes, files: {path} is given {count} times"
    for name in spec.security.add_capabilities:
        if not _CAPABILITY.fullmatch(name) or name.startswith("CAP_"):
            yield f"security.add_capabilities: {name!r} is not of the form NET_ADMIN"
    for limit in spec.ulimits:
        if not _ULIMIT.fullmatch(limit.name) or limit.soft < 0 or (limit.hard and limit.hard < limit.soft):
            yield f"ulimits: {limit.name!r} is no limit from 0 up, or its hard bound is below its soft one"
    if len(spec.verification.public_keys) > KEYS_MAX:
        yield f"verification: more than {KEYS_MAX} keys"
    for index, pem in enumerate(spec.verification.public_keys[:KEYS_MAX]):
        try:
            load_key(pem)
        except ValueError as error:
            yield f"verification.public_keys[{index}]: {error}"
    if not _USER.fullmatch(spec.user):
        yield f"user: {spec.user!r} is not of the form user[:group]"
    if spec.working_dir:
        yield from _path_problems("working_dir", spec.working_dir)


def options(spec: resource_pb2.ReplicaSpec, values: Mapping[tuple[str, int], bytes]) -> Options:
    """What is meant, defaults and all. `values` are those of secrets, by id and version."""
    security = spec.security
    return Options(
        volumes=tuple(_volume(volume) for volume in spec.volumes),
        files=tuple(ConfigFile(f.path, f.content, f.mode or FILE_MODE_DEFAULT) for f in spec.files),
        add_capabilities=tuple(security.add_capabilities),
        drop_all_capabilities=security.drop_all_capabilities,
        read_only_root=security.read_only_root,
        privileged=security.privileged,
        ulimits=tuple(Ulimit(u.name, u.soft, u.hard or u.soft) for u in spec.ulimits),
        user=spec.user,
        working_dir=spec.working_dir,
        log_bytes_max=spec.log_rotation.max_bytes or LOG_BYTES_DEFAULT,
        log_files_max=spec.log_rotation.max_files or LOG_FILES_DEFAULT,
        public_keys=tuple(spec.verification.public_keys),
        secret_files=tuple(_secret_file(mount, values) for mount in spec.secrets if not mount.env),
        secret_env=tuple((m.env, values.get((m.secret, m.version), b"").decode()) for m in spec.secrets if m.env),
    )


def secret_problems(spec: resource_pb2.ReplicaSpec, values: Mapping[tuple[str, int], bytes]) -> Iterator[str]:
    """What is wrong with the secrets of a replica."""
    for index, mount in enumerate(spec.secrets):
        at, value = f"secrets[{index}]", values.get((mount.secret, mount.version))
        if value is None:
            yield f"{at}: version {mount.version} of {mount.secret} did not come with it"
        elif mount.env and not _is_text(value):
            yield f"{at}.env: its value is no text"
        if not mount.env:
            yield from _path_problems(f"{at}.path", _secret_path(mount))
        if mount.mode & ~0o777:
            yield f"{at}.mode: {mount.mode:o} (octal) is more than 777"


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def _secret_path(mount: container_pb2.SecretMount) -> str:
    return mount.path or f"/run/secrets/{mount.secret}"


def _secret_file(mount: container_pb2.SecretMount, values: Mapping[tuple[str, int], bytes]) -> SecretFile:
    value = values.get((mount.secret, mount.version), b"")
    return SecretFile(_secret_path(mount), value, mount.mode or FILE_MODE_DEFAULT)


def _volume(volume: container_pb2.Volume) -> Volume:
    match volume.WhichOneof("source"):
        case "name":
            return Volume(volume.path, "named", volume.name, 0, volume.read_only)
        case "host_path":
            return Volume(volume.path, "host", volume.host_path, 0, volume.read_only)
        case _:
            size = volume.tmpfs.size_bytes or TMPFS_BYTES_DEFAULT
            return Volume(volume.path, "tmpfs", "", size, volume.read_only)


def _volume_problems(field: str, volume: container_pb2.Volume) -> Iterator[str]:
    yield from _path_problems(f"{field}.path", volume.path)
    source = volume.WhichOneof("source")
    if source == "name" and not _VOLUME_NAME.fullmatch(volume.name):
        yield f"{field}.name: {volume.name!r} must be 1-40 of a-z, 0-9 and '-'"
    if source == "host_path":
        yield from _path_problems(f"{field}.host_path", volume.host_path)


def _path_problems(field: str, path: str) -> Iterator[str]:
    if not path.startswith("/") or path == "/" or ".." in path.split("/") or _BAD_IN_PATHS.search(path):
        yield f"{field}: {path!r} must be absolute, without '..', ':' and control characters"
