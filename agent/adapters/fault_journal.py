"""The journal of faults on disk: what was begun is found again after a crash, and undone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from agent.core.faults import Accepted, Active, Extent, Fault, Journal, Kind
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
            ended = tuple(str(name) for name in content["ended"])
            return Journal(_all_active(content["active"]), ended, _accepted(content.get("accepted", [])))
        except FileNotFoundError:
            return Journal()
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{self._path} cannot be read ({error}): every fault is undone"
            log.error("fault_journal_damaged", **{telemetry.REASON: reason})
            self.damaged = True
            return Journal()

    def write(self, journal: Journal) -> None:
        """Makes it survive a crash. Raises OSError; what was written before then holds."""
        content = {
            "active": [_to_json(active) for active in journal.active],
            "ended": list(journal.ended),
            "accepted": [asdict(one) for one in journal.accepted],
        }
        write_atomic(self._path, json.dumps(content).encode())
        self.journal = journal
        self.damaged = False


def _to_json(active: Active) -> dict[str, Any]:
    fault = active.fault
    return {
        "name": fault.name,
        "kind": fault.kind.value,
        "duration_s": fault.duration_s,
        "offset_s": fault.offset_s,
        "extent": asdict(fault.extent),
        "begin_before": fault.begin_before,
        "until": active.until,
        "boot_id": active.boot_id,
    }


def _all_active(content: Any) -> tuple[Active, ...]:
    """What was in effect. Agents of before held one fault at most, and wrote it without a list."""
    if content is None:
        return ()
    return tuple(_active(one) for one in (content if isinstance(content, list) else [content]))


def _accepted(content: list[dict[str, Any]]) -> tuple[Accepted, ...]:
    return tuple(Accepted(str(one["name"]), float(one["since"]), str(one["boot_id"])) for one in content)


def _active(content: dict[str, Any]) -> Active:
    extent = dict(content.get("extent", {}))
    extent["destinations"] = tuple(extent.get("destinations", ()))
    fault = Fault(
        str(content["name"]),
        Kind(content["kind"]),
        float(content["duration_s"]),
        float(content["begin_before"]),
        Extent(**extent),
        offset_s=float(content.get("offset_s", 0.0)),
    )
    return Active(fault, float(content["until"]), str(content["boot_id"]))
