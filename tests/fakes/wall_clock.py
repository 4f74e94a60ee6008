"""The wall clock of a program in a process of its own, which a test makes jump."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class WallClock:
    """Its monotonic clock is the machine's. Times are offsets, as in `+2d`."""

    def __init__(self, folder: Path):
        self._file = folder / "clock"
        self.jump("+0")
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, offset: str) -> None:
        """From now on the clock is off by so much."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        os.replace(fresh, self._file)
