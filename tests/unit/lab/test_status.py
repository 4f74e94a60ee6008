from __future__ import annotations

import io
from pathlib import Path

from lab.faults import Faults
from lab.layout import Layout
from lab.record import LabRecord, find_record, load_faults, save_faults, save_record
from lab.status import collect, render

RECORD = LabRecord("lab", 2, 1, 1, 2, "boot", created=1000.0, ready=True)


def test_without_a_supervisor_it_says_so(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.pids.mkdir()
    save_faults(layout, Faults().cut_off([RECORD.topology.host("eu-1")]))
    status = collect(layout, RECORD, now=1010.0)
    assert status["supervised"] is False
    assert status["age_s"] == 10.0
    assert status["partitions"] == ["eu-1 is cut off"]
    assert [host["host"] for host in status["hosts"]] == ["cp", "eu-1", "us-1", "client-eu", "client-us"]
    stream = io.StringIO()
    render(status, stream)
    assert "supervisor does not run" in stream.getvalue()
    assert "eu-1 is cut off" in stream.getvalue()


def test_records_survive_and_damage_is_no_record(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    save_record(layout, RECORD)
    assert find_record(layout) == RECORD
    layout.record.write_text('{"name": 1')
    layout.faults.write_text("[")
    assert find_record(layout) is None
    assert load_faults(layout) == Faults()
