"""What the agent keeps on disk besides the snapshot: the edge's generation, and which containers were ready.

Generations are reserved in blocks, so that one write serves for many and none is given out twice, also after a crash.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Final

import structlog

from fleet import telemetry
from fleet.errors import LocciError, failed_precondition
from fleet.files import write_atomic

log = structlog.get_logger()

BLOCK: Final = 1000


class StateFile:
    """`state.json` in the state directory. A damaged or missing one costs a probe or two, nothing more."""

    def __init__(self, path: Path):
        self._path = path
        self._changed = asyncio.Event()
        self._failed = False
        try:
            values = json.loads(path.read_text())
            self.generation = int(values["generation_reserved"])
            self.ready = frozenset(map(str, values["ready"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.generation, self.ready = 0, frozenset[str]()
        self._reserved = self.generation + BLOCK
        self._write()

    def publish(self, generation: int, ready: frozenset[str]) -> None:
        """Takes note of what the edge is told."""
        self.ready = ready
        if generation >= self._reserved:
            self._reserved = generation + BLOCK
        self._changed.set()

    async def run(self) -> None:
        """Writes what changed, the newest only, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        content = json.dumps({"generation_reserved": self._reserved, "ready": sorted(self.ready)})
        try:
            write_atomic(self._path, content.encode())
        except OSError as error:
            if not self._failed:
                reason = f"{self._path} cannot be written: {error.strerror}; free some space there"
                log.error("state_not_saved", **{telemetry.REASON: reason})
            self._failed = True
        else:
            self._failed = False


class StateLock:
    """Only one agent at a time works on a state directory."""

    def __init__(self, directory: Path):
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise _taken(directory) from None

    def release(self) -> None:
        """Lets another agent work."""
        os.close(self._descriptor)


def _taken(directory: Path) -> LocciError:
    return failed_precondition("ALREADY_RUNNING", f"another agent works on {directory}: stop it, or set state_dir")
