"""The journal of faults: what was written is read, and what cannot be read counts as a fault."""

from __future__ import annotations

from pathlib import Path

from agent.adapters.fault_journal import FaultJournal
from agent.core.faults import Active, Extent, Fault, Journal, Kind

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
