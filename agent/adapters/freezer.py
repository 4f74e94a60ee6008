"""Faults of programs: their processes are stopped (SIGSTOP) and go on (SIGCONT). Which ones is found anew each time.

Nothing needs to be remembered to undo it: every process of every program that can be frozen is told to go on, which
does nothing to one that runs. A program that was started anew meanwhile runs anyway.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.faults import PROGRAMS
from fleet.errors import Code, LocciError

_PROC: Final = Path("/proc")
_ROUNDS_MAX: Final = 100
_ROUND_S: Final = 0.02
_ENTRY_POINTS: Final = {"edge": "locci-edge", "dns": "locci-dns"}
_NAMES: Final = {"redis": "redis-server", "dockerd": "dockerd"}


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    name: str
    argv: tuple[str, ...]
    stopped: bool


class Freezer:
    """Stops a program of this host, and lets it go on. Blocking."""

    def begin(self, program: str) -> None:
        """Every process of the program is stopped. Raises FAILED_PRECONDITION when none runs, else UNAVAILABLE."""
        # One that is stopped last may have started another before.
        for _ in range(_ROUNDS_MAX):
            found = _processes_of(program, _processes())
            if not found:
                raise LocciError(Code.FAILED_PRECONDITION, "PROGRAM_DOWN", f"{program} does not run on this host")
            running = [process for process in found if not process.stopped]
            if not running:
                return
            for process in running:
                _send(process, signal.SIGSTOP, program)
            time.sleep(_ROUND_S)
        raise LocciError(Code.UNAVAILABLE, "PROGRAM_NOT_FROZEN", f"{program} starts processes faster than they stop")

    def end(self) -> None:
        """Everything that could have been frozen goes on. Raises UNAVAILABLE when the host does not allow it."""
        everything = _processes()
        for program in PROGRAMS:
            for process in _processes_of(program, everything):
                if process.stopped:
                    _send(process, signal.SIGCONT, program)


def _send(process: _Process, number: signal.Signals, program: str) -> None:
    try:
        # By a descriptor: a number that another process got meanwhile is not hit.
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = _read(process.pid)
        if now is not None and (now.name, now.argv) == (process.name, process.argv):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    except OSError as error:
        message = f"{program}: process {process.pid}: {error.strerror}; the agent must run as root"
        raise LocciError(Code.UNAVAILABLE, "PROGRAM_NOT_FROZEN", message) from error
    finally:
        os.close(descriptor)


def _processes_of(program: str, everything: dict[int, _Process]) -> list[_Process]:
    """The program's processes; of ours, with their workers. Containers live on while their engine is frozen."""
    if program in _NAMES:
        return [process for process in everything.values() if process.name == _NAMES[program]]
    entry = _ENTRY_POINTS[program]
    chosen = {pid for pid, process in everything.items() if _runs(process.argv, entry)}
    while more := {pid for pid, p in everything.items() if p.parent in chosen} - chosen:
        chosen |= more
    return [everything[pid] for pid in sorted(chosen)]


def _runs(argv: tuple[str, ...], entry: str) -> bool:
    """By itself or by its interpreter: an editor that has it open is not meant."""
    names = [part.rpartition("/")[2] for part in argv[:3]]
    return entry in names and names[0].startswith(("python", entry))


def _processes() -> dict[int, _Process]:
    """The host's own processes: those of containers, and of other networks on the machine, are none of its."""
    network = os.readlink("/proc/self/ns/net")
    found = {}
    for path in _PROC.iterdir():
        if path.name.isdigit() and (process := _read(int(path.name))) is not None and _is_ours(path, network):
            found[process.pid] = process
    return found


def _is_ours(path: Path, network: str) -> bool:
    try:
        return os.readlink(path / "ns" / "net") == network
    except PermissionError:
        # A process of another user on a host without namespaces of its own; `_read` has left out containers.
        return True
    except OSError:
        return False


def _read(pid: int) -> _Process | None:
    """None when it is gone, ends, or is inside of a container (it has a number in another namespace)."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = (line.partition(":") for line in (_PROC / str(pid) / "status").read_text().splitlines())
        facts = {key: value.strip() for key, _, value in rows}
        state = facts["State"][0]
        if state in "ZX" or len(facts["NSpid"].split()) > 1:
            return None
        argv = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return _Process(pid, int(facts["PPid"]), facts["Name"], tuple(argv), state in "Tt")
    return None
