"""How a container is set up besides its image, environment and limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""What a container has unless it drops all."""
TMPFS_BYTES_DEFAULT: Final = 64 * 2**20
FILE_MODE_DEFAULT: Final = 0o444
LOG_BYTES_DEFAULT: Final = 10 * 2**20
LOG_FILES_DEFAULT: Final = 2


@dataclass(frozen=True, slots=True)
class Volume:
    """A place in the container that does not come from the image. `source` is a volume's name or a path of the host."""

    path: str
    kind: Literal["named", "host", "tmpfs"]
    source: str = ""
    size_bytes: int = TMPFS_BYTES_DEFAULT
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A small file that the container finds at `path`."""

    path: str
    content: str
    mode: int = FILE_MODE_DEFAULT


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret that the container finds at `path`, in memory."""

    path: str
    content: bytes = field(repr=False)
    mode: int = FILE_MODE_DEFAULT


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit of the kernel."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Options:
    """Everything of the kind."""

    volumes: tuple[Volume, ...] = ()
    files: tuple[ConfigFile, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    drop_all_capabilities: bool = False
    read_only_root: bool = False
    privileged: bool = False
    ulimits: tuple[Ulimit, ...] = ()
    user: str = ""
    working_dir: str = ""
    log_bytes_max: int = LOG_BYTES_DEFAULT
    log_files_max: int = LOG_FILES_DEFAULT
    secret_files: tuple[SecretFile, ...] = ()
    secret_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Secrets in the environment, by name."""

    public_keys: tuple[str, ...] = ()
    """In PEM; the image must be signed by one of them. Empty demands nothing."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the container's processes may have, by name, in order."""
        given = () if self.drop_all_capabilities else CAPABILITIES
        return tuple(sorted({*given, *self.add_capabilities}))
