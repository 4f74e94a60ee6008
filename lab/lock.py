"""One command at a time works on a lab, and a lab's name leads to its folder."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fleet.errors import failed_precondition
from lab.layout import LOCK_ROOT, Layout, default_layout

_WAIT_S: Final = 10.0


def _path(lab: str) -> Path:
    return LOCK_ROOT / f"{lab}.lock"


def find_layout(lab: str, state_dir: Path | None) -> Layout:
    """Where the lab is: as told, else as it was told to `up`, else the default place."""
    if state_dir is not None:
        return Layout(state_dir.absolute())
    try:
        recorded = json.loads(_path(lab).read_text())
        return Layout(Path(recorded["state_dir"]))
    except (OSError, ValueError, KeyError, TypeError):
        return default_layout(lab)


@contextmanager
def locked(lab: str, wait_s: float = _WAIT_S) -> Iterator[LockedLab]:
    """Holds the lab's lock; FAILED_PRECONDITION when another command has it for longer than `wait_s`."""
    LOCK_ROOT.mkdir(mode=0o755, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = os.open(_path(lab), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if _acquired(descriptor, lab):
                yield LockedLab(lab, descriptor)
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            message = f"another command is working on lab {lab}: wait until it has ended, and try again"
            raise failed_precondition("LAB_BUSY", message)
        time.sleep(0.05)


def _acquired(descriptor: int, lab: str) -> bool:
    """Whether the lock is ours now, and the file is still the one of that name: `down` removes it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(_path(lab)))
    except OSError:
        return False


class LockedLab:
    """The lock of a lab, held."""

    def __init__(self, lab: str, descriptor: int) -> None:
        self._lab = lab
        self._descriptor = descriptor

    def remember(self, layout: Layout) -> None:
        """Writes down where the lab is, for commands that are not told."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"state_dir": str(layout.root)}).encode(), 0)

    def forget(self) -> None:
        """Removes the lock file; the lab is gone."""
        _path(self._lab).unlink(missing_ok=True)


def known_labs() -> list[str]:
    """Names of the labs of which there is a trace on this machine."""
    locks = LOCK_ROOT.glob("*.lock") if LOCK_ROOT.is_dir() else iter(())
    folders = default_layout("x").root.parent.glob("*/lab.json")
    return sorted({path.stem for path in locks} | {path.parent.name for path in folders})
