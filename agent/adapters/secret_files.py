"""Secrets of replicas as files in memory, never on a disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.adapters.engine_errors import EngineError
from agent.core.options import SecretFile
from fleet.files import write_atomic

_IN_MEMORY: Final = ("tmpfs", "ramfs")
_ELSEWHERE: Final = (Path("/run/locci-secrets"), Path("/dev/shm/locci-secrets"))  # noqa: S108 (its own, 0700)


class SecretFiles:
    """A directory for each replica, in `wanted` where that is in memory, else where the system has memory for files."""

    def __init__(self, wanted: Path):
        own = hashlib.sha256(str(wanted).encode()).hexdigest()[:16]
        self._candidates = (wanted, *(place / own for place in _ELSEWHERE))

    @property
    def root(self) -> Path | None:
        """The first candidate in memory."""
        return next((place for place in self._candidates if _file_system(place) in _IN_MEMORY), None)

    def write(self, folder: str, files: Sequence[SecretFile]) -> Path | None:
        """The directory with a replica's files by their number; None when it has none. Raises EngineError when there is
        no memory for them."""
        if not files:
            return None
        root = self.root
        if root is None:
            places = ", ".join(str(place.parent) for place in self._candidates)
            raise EngineError(f"its secrets have no place in memory: none of {places} is a tmpfs")
        place = root / folder
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            root.chmod(0o700)
            for number, file in enumerate(files):
                path = place / str(number)
                # A container that runs holds the file itself: one that is as it should be is left alone.
                if not path.exists() or path.read_bytes() != file.content:
                    write_atomic(path, file.content)
                path.chmod(file.mode)
        except OSError as error:
            raise EngineError(f"{place}: its secrets cannot be written: {error.strerror or error}") from error
        return place

    def remove(self, folder: str) -> None:
        """Forgets a replica's files."""
        root = self.root
        if root is not None:
            shutil.rmtree(root / folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                root.rmdir()
                if root.parent in _ELSEWHERE:
                    root.parent.rmdir()


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, or will (proc(5), mountinfo)."""
    while not path.exists():
        path = path.parent
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""
