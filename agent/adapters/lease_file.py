"""Leases over a restart of the agent: `leases.json` in the run directory, good only within one boot of the host.

The monotonic clock goes on over a restart of the program, not over one of the host, and a run directory is gone then
too. What cannot be read counts as no lease: replicas wait for the control plane's word.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from fleet import telemetry

log = structlog.get_logger()

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LeaseFile:
    """Reads at once, writes the newest only."""

    def __init__(self, path: Path, boot_id: str | None = None):
        self._path = path
        self._boot_id = boot_id if boot_id is not None else _this_boot()
        self._changed = asyncio.Event()
        self._failed = False
        self.leases: dict[str, float] = self._read()
        """By resource: the moment, on the monotonic clock, from which its lease counts."""

    def _read(self) -> dict[str, float]:
        try:
            content = json.loads(self._path.read_text())
            if not self._boot_id or content["boot_id"] != self._boot_id:
                return {}
            return {str(resource): float(at) for resource, at in content["leases"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep(self, leases: Mapping[str, float]) -> None:
        """Takes note of the leases as they are now."""
        if dict(leases) != self.leases:
            self.leases = dict(leases)
            self._changed.set()

    async def run(self) -> None:
        """Writes what changed until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.to_thread(self._write, dict(self.leases))

    def _write(self, leases: dict[str, float]) -> None:
        # Not forced to the disk: after a crash of the host it would be worthless anyway.
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_text(json.dumps({"boot_id": self._boot_id, "leases": leases}))
            os.replace(temporary, self._path)
            self._failed = False
        except OSError as error:
            if not self._failed:
                reason = f"{self._path} cannot be written: {error.strerror}; a restart of this agent stops singletons"
                log.error("leases_not_saved", **{telemetry.REASON: reason})
            self._failed = True


def _this_boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
