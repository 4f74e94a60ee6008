"""Programs are stopped with their workers, and go on, whoever stopped them."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.adapters.freezer import Freezer
from fleet.errors import LocciError

PROGRAM = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def state(pid: int) -> str:
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def until(pid: int, wanted: str) -> None:
    deadline = time.monotonic() + 30.0
    while state(pid) not in wanted:
        assert time.monotonic() < deadline, state(pid)
        time.sleep(0.01)


def test_a_program_is_frozen_with_its_workers_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name of its own: no other program on this machine is stopped.
    script = tmp_path / f"locci-{secrets.token_hex(6)}"
    script.write_text(PROGRAM)
    monkeypatch.setattr("agent.adapters.host_processes.ENTRY_POINTS", {"edge": "no-such-program", "dns": script.name})
    argv = [sys.executable, str(script), "run"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        try:
            Freezer().begin("dns")
            until(program.pid, "T")
            until(worker, "T")
            Freezer().end()
            until(program.pid, "SR")
            until(worker, "SR")
            Freezer().end()
        finally:
            subprocess.run(["kill", "-9", str(worker), str(program.pid)], check=True)


def test_what_does_not_run_cannot_be_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agent.adapters.host_processes.ENTRY_POINTS", {"edge": "no-such-program", "dns": "no-such-program"}
    )
    with pytest.raises(LocciError, match="does not run"):
        Freezer().begin("edge")
