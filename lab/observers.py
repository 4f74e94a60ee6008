"""Watching a lab from several places at once while something happens to it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import dns.edns
import dns.exception
import dns.message
import dns.rdatatype

from fleet.errors import LocciError
from lab.api import ApiClient
from lab.inside import socket_inside
from lab.machine import clean_environment, enter
from lab.samples import Poll, Sample, Sighting, parse_samples
from lab.topology import Host, Topology

_POLL_INTERVAL_S: Final = 0.05
_POLL_TIMEOUT_S: Final = 0.25
_WATCH_INTERVAL_S: Final = 0.1
_END_TIMEOUT_S: Final = 5.0


class ClientLoop:
    """A client (`lab.client`) in a host's namespace, asking at a fixed rate while the context lasts."""

    def __init__(self, topology: Topology, host: Host, hostname: str, *, path: str = "/", rate: float = 20.0) -> None:
        self.host = host
        command = [sys.executable, "-m", "lab.client", "--hostname", hostname, "--path", path, "--rate", f"{rate:g}"]
        self._argv = enter(topology.namespace(host), command)
        self._samples: list[Sample] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=clean_environment(), cwd="/"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            new = parse_samples([line])
            with self._lock:
                self._samples += new

    def stop(self) -> None:
        """Ends the client; requests in progress come to their end first."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_TIMEOUT_S)
        self._reader.join(_END_TIMEOUT_S)

    def samples(self, since: float = 0.0) -> list[Sample]:
        """The requests so far that began at `since` or later, in the order in which they began."""
        with self._lock:
            return sorted((sample for sample in self._samples if sample.at >= since), key=lambda sample: sample.at)

    def wait(self, holds: Callable[[Sequence[Sample]], bool], *, since: float = 0.0, timeout_s: float) -> bool:
        """Waits until the samples fulfil a condition; whether they did in time."""
        deadline = time.monotonic() + timeout_s
        while not holds(self.samples(since)):
            if time.monotonic() > deadline or self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return True


class _Watcher:
    """A thread that looks again and again while the context lasts."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(_END_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self.look(began)
            self._stopping.wait(max(0.0, self._interval_s - (time.monotonic() - began)))

    def look(self, now: float) -> None:
        """Looks once."""


class NameServerWatch(_Watcher):
    """Asks one DNS server directly, on behalf of a client's network (RFC 7871), every 50 ms."""

    def __init__(self, topology: Topology, server: Host, hostname: str, client: Host) -> None:
        super().__init__(_POLL_INTERVAL_S)
        self._server, self._hostname, self._client = server, hostname, client
        self._namespace = topology.namespace(topology.control)
        self.name = server.name
        self.polls: list[Poll] = []

    def look(self, now: float) -> None:
        """One question."""
        addresses: frozenset[str] | None = None
        with suppress(OSError, LocciError, dns.exception.DNSException):
            addresses = ask_name_server(self._namespace, self._server, self._hostname, self._client)
        self.polls.append(Poll(now, self._server.name, addresses))


def ask_name_server(namespace: str, server: Host, hostname: str, client: Host) -> frozenset[str]:
    """The IPv4 addresses that a DNS server gives a client's network; OSError when it does not answer in 250 ms."""
    subnet = dns.edns.ECSOption(client.ipv4, 24)
    query = dns.message.make_query(hostname, dns.rdatatype.A, use_edns=0, options=[subnet])
    with socket_inside(namespace, socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(_POLL_TIMEOUT_S)
        link.sendto(query.to_wire(), (server.ipv4, 53))
        answer = dns.message.from_wire(link.recv(4096))
    found = (item for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A for item in rrset)
    return frozenset(str(item) for item in found)


class ControlPlaneWatch(_Watcher):
    """What the control plane knows of a region's nodes: events, conditions and the vantages' evidence."""

    def __init__(self, api: ApiClient, region: str, nodes: frozenset[str]) -> None:
        super().__init__(_WATCH_INTERVAL_S)
        self._api = api
        self._region = region
        self._subjects = {f"regions/{region}"} | {f"nodes/{node}" for node in nodes}
        self._wall_offset = time.time() - time.monotonic()
        self._seen: set[tuple[str, str]] = set()
        self.sightings: list[Sighting] = []

    def look(self, now: float) -> None:
        """One look at the newest events and the routing table."""
        with suppress(LocciError):
            for event in self._api.call("GET", "/v1/events", query={"page_size": 50}).get("events", []):
                self._take_event(event)
            table = self._api.call("GET", "/v1/routingTable")
            for region in table.get("regions", []):
                if region.get("region") == self._region:
                    self._take_region(region, now)

    def _take_event(self, event: dict[str, Any]) -> None:
        troubling = event.get("severity") in ("SEVERITY_WARNING", "SEVERITY_ERROR")
        if troubling and self._subjects & set(event.get("subjects", [])):
            at = datetime.fromisoformat(event["time"]).timestamp() - self._wall_offset
            self._add(Sighting(at, str(event["type"]), str(event.get("message", ""))), event["name"])

    def _take_region(self, region: dict[str, Any], now: float) -> None:
        for edge in region.get("edges", []):
            for evidence in edge.get("evidence", []):
                if not evidence.get("healthy", False):
                    vantage = str(evidence.get("vantage", "")).removeprefix("nodes/")
                    text = f"{vantage} finds {edge.get('node')} out of order: {evidence.get('reason', '')}"
                    self._add(Sighting(now, "ProbeFailed", text), f"{vantage}>{edge.get('node')}")

    def _add(self, sighting: Sighting, key: str) -> None:
        if (sighting.kind, key) not in self._seen:
            self._seen.add((sighting.kind, key))
            self.sightings.append(sighting)
