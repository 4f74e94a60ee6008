"""The program of sandboxes runs, and sleeps until it is killed."""

from __future__ import annotations

import io
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from agent.adapters import pause_image


def test_it_sleeps_without_using_the_processor(tmp_path: Path) -> None:
    archive = pause_image.archive()
    if archive is None:
        pytest.skip("no program is known for this machine")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        program = tar.extractfile("pause")
        assert program is not None
        path = tmp_path / "pause"
        path.write_bytes(program.read())
    path.chmod(0o755)
    process = subprocess.Popen([path])
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 5
        while (state := stat.read_text().rsplit(")", 1)[1].split()[0]) != "S" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state == "S"
    finally:
        process.kill()
    assert process.wait(5) == -signal.SIGKILL


def test_an_unknown_machine_has_none() -> None:
    assert pause_image.archive("riscv64") is None
