"""The journal of faults: what was written is read, and what cannot be read counts as a fault."""

from __future__ import annotations

import json
from pathlib import Path

from agent.adapters.fault_journal import FaultJournal
from agent.core.faults import Accepted, Active, Extent, Fault, Journal, Kind

ACTIVE = Active(Fault("faults/cut-eu/1", Kind.FROZEN, 30.0, 1_000.0, Extent(program="redis")), 130.5, "boot-a")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    assert FaultJournal(path).journal == Journal()
    journal = Journal(ended=("faults/cut-eu/0",)).begun(ACTIVE)
    FaultJournal(path).write(journal)
    again = FaultJournal(path)
    assert again.journal == journal
    assert not again.damaged


def test_a_damaged_one_is_known_as_such_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"active": {"name": "x"}')
    journal = FaultJournal(path)
    assert journal.damaged
    assert journal.journal == Journal()
    journal.write(Journal())
    assert not FaultJournal(path).damaged


def test_several_and_what_waits_are_read_again(tmp_path: Path) -> None:
    extent = Extent(requests_per_second=5, destinations=("192.0.2.1",), hostname="hello.example.net")
    active = Active(Fault("faults/d/1/2", Kind.SURGE, 30.0, 1e9, extent, offset_s=4.0), 50.0, "boot-a")
    journal = Journal((active,), ("faults/d/0",), (Accepted("faults/d/1/3", 7.0, "boot-a"),))
    FaultJournal(tmp_path / "faults.json").write(journal)
    read = FaultJournal(tmp_path / "faults.json")
    assert (read.journal, read.damaged) == (journal, False)


def test_a_journal_of_before_is_read(tmp_path: Path) -> None:
    old = {
        "active": {"name": "faults/d/1", "kind": "cut", "duration_s": 30.0, "begin_before": 1e9, "until": 50.0}
        | {"boot_id": "boot-a", "extent": {"loss_percent": 0, "delay_ms": 0, "rate_kbit": 0, "ballast_bytes": 0}},
        "ended": ["faults/d/0"],
    }
    (tmp_path / "faults.json").write_text(json.dumps(old))
    read = FaultJournal(tmp_path / "faults.json").journal
    assert [active.fault.name for active in read.active] == ["faults/d/1"]
    (tmp_path / "faults.json").write_text(json.dumps(old | {"active": None}))
    assert not FaultJournal(tmp_path / "faults.json").journal.active
