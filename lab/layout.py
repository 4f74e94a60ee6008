"""Where a lab keeps what: one folder, and nothing outside it but a lock in /run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.errors import invalid

STATE_ROOT: Final = Path("/var/lib/locci-lab")
LOCK_ROOT: Final = Path("/run/locci-lab")

# A unix socket's path has at most 107 bytes (unix(7)). The longest below the folder is the engine's
# hosts/{host}/docker/exec/libnetwork/{12 characters}.sock; containerd appends .ttrpc to its own.
_STATE_DIR_LENGTH_MAX: Final = 48


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one lab below its folder."""

    root: Path

    @property
    def record(self) -> Path:
        """What the lab was made with; its presence means that there is something to take down."""
        return self.root / "lab.json"

    @property
    def faults(self) -> Path:
        """The links that are cut."""
        return self.root / "faults.json"

    @property
    def context(self) -> Path:
        """How `locci` reaches the lab's control plane from the machine itself."""
        return self.root / "context.json"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens."""
        return self.root / "supervisor.sock"

    @property
    def pids(self) -> Path:
        """A file for each running program, with its pid and start time."""
        return self.root / "pids"

    @property
    def logs(self) -> Path:
        """The programs' output."""
        return self.root / "logs"

    def log(self, host: str, program: str) -> Path:
        """The output of one program."""
        return self.logs / f"{host}.{program}.log"

    def host(self, host: str) -> Path:
        """The folder of one host."""
        return self.root / "hosts" / host

    def config(self, host: str, program: str, suffix: str = "toml") -> Path:
        """The configuration of one program."""
        return self.host(host) / f"{program}.{suffix}"

    def docker_socket(self, host: str) -> Path:
        """Where the host's Docker Engine listens."""
        return self.host(host) / "docker.sock"

    def check(self) -> Layout:
        """Itself, or INVALID_ARGUMENT when the folder's path is too long for the sockets in it."""
        if len(str(self.root).encode()) > _STATE_DIR_LENGTH_MAX:
            raise invalid(
                "state-dir",
                f"state-dir: {self.root} is longer than {_STATE_DIR_LENGTH_MAX} bytes; unix sockets below it would "
                "have paths that the kernel refuses: choose a shorter one",
            )
        return self


def default_layout(lab: str) -> Layout:
    """Where a lab is unless it was told otherwise."""
    return Layout(STATE_ROOT / lab)
