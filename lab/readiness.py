"""Whether the programs of a lab do their work, asked of themselves, and waiting until they do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from fleet.errors import Code, LocciError
from lab.control import SupervisorControl
from lab.inside import exchange, exchange_unix, socket_inside
from lab.layout import Layout
from lab.topology import REGISTRY_PORT, ZONE, Host, Topology

HEALTH_PATH: Final = "/.well-known/locci/health"
_POLL_S: Final = 0.05
_ENDS_MAX: Final = 3
_TAIL_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What is waited for: a program of a host, and what it should be."""

    host: str
    program: str
    what: str


class Readiness:
    """Looks at programs from where their clients are."""

    def __init__(self, topology: Topology, layout: Layout, control: SupervisorControl) -> None:
        self._topology = topology
        self._layout = layout
        self._control = control
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends every wait, also those of other threads, with ABORTED: nobody needs them any more."""
        self._cancelled.set()

    def engine(self, host: Host) -> bool:
        """Docker Engine answers a ping."""
        request = b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
        return _says(lambda: exchange_unix(str(self._layout.docker_socket(host.name)), request), b"200 OK")

    def registry(self) -> bool:
        """The registry speaks its API."""
        control = self._topology.control
        return self._http(control, control.ipv4, REGISTRY_PORT, "/v2/", control.ipv4)

    def redis(self, host: Host) -> bool:
        """Redis answers a ping."""
        namespace = self._topology.namespace(host)
        return _says(lambda: exchange(namespace, "127.0.0.1", 6379, b"PING\r\nQUIT\r\n"), b"PONG")

    def edge(self, host: Host) -> bool:
        """The edge has a configuration and takes requests."""
        return self._http(host, host.ipv4, 80, HEALTH_PATH, host.name)

    def name_server(self, host: Host) -> bool:
        """The DNS server has the zone."""
        return self._resolves(host, host.ipv4)

    def resolver(self, host: Host) -> bool:
        """The client's resolver finds the zone."""
        return self._resolves(host, "127.0.0.1")

    def _http(self, host: Host, address: str, port: int, path: str, name: str) -> bool:
        request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
        namespace = self._topology.namespace(host)
        return _says(lambda: exchange(namespace, address, port, request), b" 200 ")

    def _resolves(self, host: Host, address: str) -> bool:
        query = dns.message.make_query(ZONE, dns.rdatatype.SOA)
        try:
            with socket_inside(self._topology.namespace(host), socket.AF_INET, socket.SOCK_DGRAM) as link:
                link.settimeout(0.5)
                link.sendto(query.to_wire(), (address, 53))
                answer = dns.message.from_wire(link.recv(4096))
        except (OSError, dns.exception.DNSException):
            return False
        return answer.rcode() == dns.rcode.NOERROR and bool(answer.answer)

    def wait(self, subject: Subject, holds: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `holds()`.

        Raises UNAVAILABLE with the end of the program's log when it does not hold within `timeout_s`, or as soon as
        the program has ended several times.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            ends = self._ends(subject)
            if ends >= _ENDS_MAX:
                raise self._failure(subject, f"ended {ends} times")
            if time.monotonic() > deadline:
                raise self._failure(subject, f"is not {subject.what} after {timeout_s:g} s")
            if self._cancelled.wait(_POLL_S):
                raise LocciError(Code.ABORTED, "CANCELLED", f"the wait for {subject.program} was given up")

    def _ends(self, subject: Subject) -> int:
        entry = self._control.programs().get((subject.host, subject.program))
        return int(entry["restarts"]) if entry is not None else 0

    def _failure(self, subject: Subject, how: str) -> LocciError:
        tail = log_tail(self._layout, subject.host, subject.program)
        message = f"{subject.program} on {subject.host} {how}; the end of its log:\n{tail}"
        return LocciError(Code.UNAVAILABLE, "NOT_READY", message)


def log_tail(layout: Layout, host: str, program: str, lines: int = _TAIL_LINES) -> str:
    """The last lines of a program's log, indented."""
    try:
        text = layout.log(host, program).read_text(errors="replace")
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"


def _says(ask: Callable[[], bytes], wanted: bytes) -> bool:
    try:
        return wanted in ask()[:4096]
    except (OSError, LocciError):
        return False
