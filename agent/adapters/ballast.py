"""The fault of a full disk: one file beside the agent's state takes what is free, but for a reserve."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError, failed_precondition

RESERVE_BYTES: Final = 64 * 2**20
"""Left free, so that the journal of what is to be undone can be written and people can log in."""
NAME: Final = "drill-ballast"
_CHUNK_BYTES: Final = 256 * 2**20
_FILL_S: Final = 10.0


class Ballast:
    """Takes space, and gives it back. Blocking."""

    def __init__(self, folder: Path):
        self._path = folder / NAME

    def begin(self, bytes_max: int) -> None:
        """Takes at most `bytes_max` (0 for no limit). Raises FAILED_PRECONDITION when less than the reserve is free,
        UNAVAILABLE when the file system cannot reserve space at once."""
        self.end()
        stat = os.statvfs(self._path.parent)
        size = stat.f_bavail * stat.f_frsize - RESERVE_BYTES
        size = min(size, bytes_max) if bytes_max else size
        if size <= 0:
            raise failed_precondition("DISK_FULL_ALREADY", f"{self._path.parent} has less than {RESERVE_BYTES} free")
        began = time.monotonic()
        with self._path.open("xb") as file:
            for offset in range(0, size, _CHUNK_BYTES):
                if time.monotonic() - began > _FILL_S:
                    message = f"{self._path}: {size} bytes could not be reserved within {_FILL_S:g} s"
                    raise LocciError(Code.UNAVAILABLE, "BALLAST_SLOW", message)
                os.posix_fallocate(file.fileno(), offset, min(_CHUNK_BYTES, size - offset))

    def end(self) -> None:
        """The space is free again; that none was taken is fine. Raises OSError."""
        self._path.unlink(missing_ok=True)
