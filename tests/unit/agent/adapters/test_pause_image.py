"""The program of sandboxes runs, and sleeps until it is killed."""

from __future__ import annotations

import io
import signal
import subprocess
import tarfile
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
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        spent = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        assert (spent[0], spent[11], spent[12]) == ("S", "0", "0")
    finally:
        process.kill()
    assert process.wait(5) == -signal.SIGKILL


def test_an_unknown_machine_has_none() -> None:
    assert pause_image.archive("riscv64") is None
