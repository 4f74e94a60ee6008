"""Telling processes apart and ending them.

A pid alone names nobody, as it is used again; pid and start time together name one process.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError
from lab.machine import namespace_path

_PROC: Final = Path("/proc")
_END_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process: its pid, and its start time in clock ticks since boot (proc_pid_stat(5), field 22)."""

    pid: int
    start: int


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None when there is none, or only what is left of one (a zombie)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else ProcessId(pid, int(fields[19]))


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def kill(process: ProcessId, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signals the process if it is still that one; False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # Checked after the handle is open: from here on the pid cannot come to mean another process.
        if not alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def write_pid_file(path: Path, process: ProcessId) -> None:
    """Remembers a process across the death of who started it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": process.pid, "start": process.start}))
    temporary.replace(path)


def read_pid_files(folder: Path) -> dict[str, ProcessId]:
    """The processes in a folder of pid files that still run, by the file's name."""
    found: dict[str, ProcessId] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text())
            process = ProcessId(int(data["pid"]), int(data["start"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written when the machine stopped: whatever it named is gone too
        if alive(process):
            found[path.stem] = process
    return found


def in_namespaces(namespaces: Iterable[str]) -> set[ProcessId]:
    """Every process inside one of the network namespaces, without this one and its ancestors."""
    wanted = set()
    for name in namespaces:
        try:
            status = namespace_path(name).stat()
        except OSError:
            continue
        wanted.add((status.st_dev, status.st_ino))
    return {process for process in _everyone() if _namespace_of(process.pid) in wanted}


def _namespace_of(pid: int) -> tuple[int, int] | None:
    try:
        status = (_PROC / str(pid) / "ns" / "net").stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _everyone() -> list[ProcessId]:
    spared = _ancestors()
    pids = (int(path.name) for path in _PROC.iterdir() if path.name.isdigit())
    return [process for pid in pids if pid not in spared and (process := identify(pid)) is not None]


def _ancestors() -> set[int]:
    """This process and all above it: whoever asked to take a lab down from inside it gets an answer."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            text = (_PROC / str(pid) / "stat").read_text()
        except OSError:
            break
        pid = int(text[text.rindex(")") + 2 :].split()[1])
    return found


def in_cgroups(folders: Iterable[Path]) -> set[ProcessId]:
    """Every process in the cgroups below the folders; a cgroup that goes meanwhile, as one of a container that ends,
    has none."""
    found: set[ProcessId] = set()
    for folder in folders:
        for inner, _, _ in os.walk(folder):
            try:
                pids = (Path(inner) / "cgroup.procs").read_text().split()
            except OSError:
                continue
            found |= {process for pid in pids if (process := identify(int(pid))) is not None}
    return found


def wait_gone(processes: Iterable[ProcessId], timeout_s: float = _END_TIMEOUT_S) -> None:
    """Returns when all are gone; DEADLINE_EXCEEDED names those that are not."""
    deadline = time.monotonic() + timeout_s
    left = set(processes)
    while left := {process for process in left if alive(process)}:
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in sorted(left, key=lambda p: p.pid))
            raise LocciError(Code.DEADLINE_EXCEEDED, "PROCESS_STAYS", f"killed, but still there: processes {pids}")
        time.sleep(0.01)
