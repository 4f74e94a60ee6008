"""The processes of this host's programs, found anew each time, and signals to them. Not those of containers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError

_PROC: Final = Path("/proc")
ENTRY_POINTS: Final = {"edge": "locci-edge", "dns": "locci-dns"}
_NAMES: Final = {"redis": "redis-server", "dockerd": "dockerd"}


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was seen."""

    pid: int
    parent: int
    name: str
    argv: tuple[str, ...]
    stopped: bool


def send(process: Process, number: signal.Signals, program: str) -> None:
    """Signals a process if it is still that one. Raises UNAVAILABLE when the host does not allow it."""
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
        raise LocciError(Code.UNAVAILABLE, "PROGRAM_NOT_SIGNALLED", message) from error
    finally:
        os.close(descriptor)


def processes_of(program: str, everything: Mapping[int, Process]) -> list[Process]:
    """The program's processes; of ours, with their workers. Containers live on while their engine is frozen."""
    if program in _NAMES:
        return [process for process in everything.values() if process.name == _NAMES[program]]
    entry = ENTRY_POINTS[program]
    chosen = {pid for pid, process in everything.items() if _runs(process.argv, entry)}
    while more := {pid for pid, p in everything.items() if p.parent in chosen} - chosen:
        chosen |= more
    return [everything[pid] for pid in sorted(chosen)]


def _runs(argv: tuple[str, ...], entry: str) -> bool:
    """By itself or by its interpreter: an editor that has it open is not meant."""
    names = [part.rpartition("/")[2] for part in argv[:3]]
    return entry in names and names[0].startswith(("python", entry))


def processes() -> dict[int, Process]:
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


def _read(pid: int) -> Process | None:
    """None when it is gone, ends, or is inside of a container (it has a number in another namespace)."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = (line.partition(":") for line in (_PROC / str(pid) / "status").read_text().splitlines())
        facts = {key: value.strip() for key, _, value in rows}
        state = facts["State"][0]
        if state in "ZX" or len(facts["NSpid"].split()) > 1:
            return None
        argv = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return Process(pid, int(facts["PPid"]), facts["Name"], tuple(argv), state in "Tt")
    return None
