"""`tools/setup` on machines that lack what it needs: it says what it cannot do, and changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BASIC = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "flock",
    "grep",
    "id",
    "mkdir",
    "python3",
    "sha256sum",
    "tail",
    "uname",
)
NOBODY = 65534


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the script in it, and a `bin` with nothing but the most basic commands."""
    (tmp_path / "bin").mkdir()
    for name in BASIC:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found is not None, name
        (tmp_path / "bin" / name).symlink_to(found)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup", tmp_path / "tools" / "setup")
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755)
    return tmp_path


def run(machine: Path, *, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(machine / "tools" / "setup")],
        env={"PATH": str(machine / "bin")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        user=user,
        group=user,
    )


@pytest.mark.lab
def test_without_root_it_names_what_is_missing_and_how_to_get_it(machine: Path) -> None:
    for parent in list(machine.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    refused = run(machine, user=NOBODY)
    assert refused.returncode == 3, refused.stderr
    assert "not root" in refused.stderr
    assert "docker-registry" in refused.stderr
    assert "sudo apt-get install" in refused.stderr
    assert not (machine / ".venv").exists()


@pytest.mark.lab
def test_without_apt_it_says_so(machine: Path) -> None:
    refused = run(machine)
    assert refused.returncode == 3, refused.stderr
    assert "no apt-get" in refused.stderr
    assert "redis-server" in refused.stderr
    assert not (machine / ".venv").exists()


@pytest.mark.lab
def test_an_old_python_is_named(machine: Path) -> None:
    old = machine / "bin" / "python3"
    old.unlink()
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    refused = run(machine)
    assert refused.returncode == 1
    assert "3.11" in refused.stderr
    assert "3.9.2" in refused.stderr
