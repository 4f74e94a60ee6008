"""Whose process keeps which container, by a /proc that the test wrote; what is noted of containers."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent.adapters.orphans import Ledger, end, keepers
from agent.core.orphans import Keeper

SHIM = "/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0{}\0-address\0/run/containerd/containerd.sock\0"


def process(proc: Path, pid: int, comm: str, argv: str, parent: int = 1) -> None:
    """A process."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "cmdline").write_text(argv)
    (folder / "stat").write_text(f"{pid} ({comm}) S {parent} " + "0 " * 17 + "77 0\n")


def test_shims_are_found_by_their_arguments(tmp_path: Path) -> None:
    process(tmp_path, 10, "containerd-shim", SHIM.format("abc"))
    process(tmp_path, 11, "sh", "sh\0-c\0containerd-shim -id def\0")
    process(tmp_path, 12, "containerd-shim", "containerd-shim\0-v\0")
    (tmp_path / "13").mkdir()
    (tmp_path / "self").mkdir()
    assert list(keepers(tmp_path)) == [Keeper(10, "77", "abc")]


@pytest.mark.parametrize("same", [True, False])
def test_a_shim_and_what_it_keeps_are_killed_unless_it_is_another_by_now(tmp_path: Path, same: bool) -> None:
    with subprocess.Popen(["sleep", "60"]) as shim, subprocess.Popen(["sleep", "60"]) as child:
        process(tmp_path, shim.pid, "containerd-shim", SHIM.format("abc"))
        process(tmp_path, child.pid, "sleep", "sleep\00060\0", parent=shim.pid)
        process(tmp_path, os.getpid(), "python", "python\0")
        end(Keeper(shim.pid, "77" if same else "78", "abc"), tmp_path)
        if not same:
            assert (shim.poll(), child.poll()) == (None, None)
            shim.kill()
            child.kill()
        assert (shim.wait(10), child.wait(10)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_one_that_is_gone_is_fine(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as done:
        done.wait()
    end(Keeper(done.pid, "77", "abc"), tmp_path)


def test_containers_are_noted_and_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "containers")
    assert ledger.read() == frozenset()
    ledger.note("a")
    ledger.note("b")
    ledger.note("a")
    ledger.forget("b")
    ledger.forget("c")
    assert Ledger(tmp_path / "containers").read() == {"a"}


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file")
    ledger.note("a")
    assert ledger.read() == frozenset()
