"""Whether a container is where the engine says: one that was killed in mid-start may show the network of a sandbox that
was started anew, while what joined it before still runs in the old network, where nobody reaches it."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PROC: Final = Path("/proc")
_STARTED: Final = 19
"""Which word after a process's name in `/proc/PID/stat` is the time of its start (proc_pid_stat(5), field 22)."""


_LISTEN: Final = "0A"
_ANY: Final = ("0" * 8, "0" * 32)


@dataclass(frozen=True, slots=True)
class _Process:
    """A container's first process; a number alone may be another's by now."""

    pid: int
    started: str


class Networks:
    """Looks into the kernel, at 0.1 ms a container; the engine is asked once for each container's process.

    What cannot be looked at, as with an engine on another host or in another PID namespace, counts as right.
    """

    def __init__(self, proc: Path = PROC):
        self._proc = proc
        self._processes: dict[str, _Process] = {}
        self._lock = threading.Lock()

    def astray(self, pid_of: Callable[[str], int], joined: Mapping[str, tuple[str, str]]) -> frozenset[str]:
        """Those of the containers whose process is not in the network that it should be in.

        `joined` has, by container, the sandbox whose network it joins (or empty) and the address at which it is to be
        reached; `pid_of` asks the engine for the process of a container, 0 for none.
        """
        needed = {*joined, *(sandbox for sandbox, _ in joined.values() if sandbox)}
        with self._lock:
            self._learn(needed, pid_of)
            return frozenset(i for i, (sandbox, address) in joined.items() if self._is_astray(i, sandbox, address))

    def _learn(self, needed: set[str], pid_of: Callable[[str], int]) -> None:
        self._processes = {i: p for i, p in self._processes.items() if i in needed and self._lives(p)}
        for container_id in sorted(needed - self._processes.keys()):
            process = self._process(container_id, pid_of(container_id))
            if process is not None:
                self._processes[container_id] = process

    def has_address(self, container_id: str, pid: int, address: str) -> bool:
        """Whether a container's network has the address that the engine shows for it."""
        process = self._process(container_id, pid)
        return process is None or self._has(process, address)

    def know(self, container_id: str, pid: int) -> None:
        """The process of a container that was just started."""
        process = self._process(container_id, pid)
        if process is not None:
            with self._lock:
                self._processes[container_id] = process

    def listens(self, container_id: str, address: str, port: int) -> bool:
        """Whether something listens in the container's network so that it is to be reached at this address and port
        (proc_pid_net(5), `tcp` and `tcp6`). Sockets for IPv6 count as such for both. False when it cannot be seen."""
        with self._lock:
            process = self._processes.get(container_id)
        if process is None or not self._lives(process):
            return False
        folder = self._proc / str(process.pid) / "net"
        sockets = {socket for name in ("tcp", "tcp6") for socket in _listening(folder / name)}
        return any(number == port and host in (*_ANY, _hex(address)) for host, number in sockets)

    def _is_astray(self, container_id: str, sandbox_id: str, address: str) -> bool:
        process, sandbox = self._processes.get(container_id), self._processes.get(sandbox_id)
        if process is None:
            return False
        here = self._namespace(process)
        there = self._namespace(sandbox) if sandbox is not None else here
        return (None not in (here, there) and here != there) or not self._has(process, address)

    def _process(self, container_id: str, pid: int) -> _Process | None:
        """The process, if it is one of this container as seen from here."""
        try:
            groups = (self._proc / str(pid) / "cgroup").read_text()
        except OSError:
            return None
        started = self._started(pid)
        return _Process(pid, started) if pid and started and container_id in groups else None

    def _lives(self, process: _Process) -> bool:
        return self._started(process.pid) == process.started

    def _started(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(") ")[2].split()[_STARTED]
        except (OSError, IndexError):
            return ""

    def _namespace(self, process: _Process) -> str | None:
        """The process's network namespace; None when this program may not look (namespaces(7): as for ptrace)."""
        try:
            return str((self._proc / str(process.pid) / "ns" / "net").readlink())
        except OSError:
            return None

    def _has(self, process: _Process, address: str) -> bool:
        """Whether an IPv4 address is one of the process's own network; reading that needs no privilege."""
        try:
            routes = (self._proc / str(process.pid) / "net" / "fib_trie").read_text().splitlines()
        except OSError:
            return True
        own = {before.split()[-1] for before, line in itertools.pairwise(routes) if line.split()[:2] == ["/32", "host"]}
        return not own or not address or address in own


def _listening(table: Path) -> Iterator[tuple[str, int]]:
    """Address and port of each socket that listens, the address as the kernel writes it."""
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTEN:
                host, _, port = words[1].partition(":")
                yield host, int(port, 16)


def _hex(address: str) -> str:
    """An IPv4 address as the kernel writes it on this machine: a word in the machine's order of bytes."""
    return f"{int.from_bytes(ipaddress.ip_address(address).packed, sys.byteorder):08X}" if "." in address else ""


def pid_of(found: Mapping[str, Any]) -> int:
    """The process of an inspected container; 0 when it does not run."""
    return int(found["State"].get("Pid") or 0)
