"""The journal of faults on disk: what was begun is found again after a crash, and undone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from agent.core.faults import Active, Extent, Fault, Journal, Kind
from fleet import telemetry
from fleet.files import write_atomic

log = structlog.get_logger()


class FaultJournal:
    """Reads once, writes each change durably before it returns."""

    def __init__(self, path: Path):
        self._path = path
        self.damaged = False
        """What was written before cannot be read: anything may be in effect."""
        self.journal = self._read()

    def _read(self) -> Journal:
        try:
            content = json.loads(self._path.read_text())
            return Journal(_active(content["active"]), tuple(str(name) for name in content["ended"]))
        except FileNotFoundError:
            return Journal()
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{self._path} cannot be read ({error}): every fault is undone"
            log.error("fault_journal_damaged", **{telemetry.REASON: reason})
            self.damaged = True
            return Journal()

    def write(self, journal: Journal) -> None:
        """Makes it survive a crash. Raises OSError; what was written before then holds."""
        active = journal.active
        content = {
            "active": None
            if active is None
            else {
                "name": active.fault.name,
                "kind": active.fault.kind.value,
                "duration_s": active.fault.duration_s,
                "extent": asdict(active.fault.extent),
                "begin_before": active.fault.begin_before,
                "until": active.until,
                "boot_id": active.boot_id,
            },
            "ended": list(journal.ended),
        }
        write_atomic(self._path, json.dumps(content).encode())
        self.journal = journal
        self.damaged = False


def _active(content: dict[str, Any] | None) -> Active | None:
    if content is None:
        return None
    fault = Fault(
        str(content["name"]),
        Kind(content["kind"]),
        float(content["duration_s"]),
        float(content["begin_before"]),
        Extent(**content.get("extent", {})),
    )
    return Active(fault, float(content["until"]), str(content["boot_id"]))
