"""From a host name to the places that may answer: local replicas, then other edges in the given order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core.balance import Endpoint, order

OBJECT_BYTES_DEFAULT: Final = 8 * 1024 * 1024
ATTEMPTS_MAX: Final = 6
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_HOSTNAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Local:
    """A replica on this host."""

    replica: str
    address: str
    draining: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node's edge."""

    region: str
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where an app's requests go."""

    app: str
    hostnames: tuple[str, ...]
    cache: bool
    object_bytes_max: int
    local: tuple[Local, ...]
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that is served, of one generation."""

    generation: int = 0
    node: str = ""
    region: str = ""
    trust_domain: str = ""
    identity_dir: str = ""
    by_host: Mapping[bytes, Route] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()

    def find(self, host: bytes) -> Route | None:
        """The route of a normalised host; one that came with a port is looked for without it too."""
        route = self.by_host.get(host)
        if route is None and b":" in host and not host.endswith(b"]"):
            route = self.by_host.get(host.rpartition(b":")[0])
        return route


def problems(table: Table) -> list[str]:
    """What makes a table unfit to serve; each a sentence."""
    found = []
    owner: dict[str, str] = {}
    for route in table.routes:
        for hostname in route.hostnames:
            if not _HOSTNAME.fullmatch(hostname):
                found.append(f"route {route.app}: {hostname!r} is not a lower-case host name")
            if owner.setdefault(hostname, route.app) != route.app:
                found.append(f"routes {owner[hostname]} and {route.app} both have the hostname {hostname}")
        for address in [*(local.address for local in route.local), *(peer.address for peer in route.peers)]:
            match = _ADDRESS.fullmatch(address)
            if match is None or not 0 < int(match[1]) < 65536:
                found.append(f"route {route.app}: {address!r} is not address:port")
    return found


def table(
    generation: int, node: str, region: str, trust_domain: str, identity_dir: str, routes: tuple[Route, ...]
) -> Table:
    """A table with its index of hosts."""
    by_host = {hostname.encode(): route for route in routes for hostname in route.hostnames}
    return Table(generation, node, region, trust_domain, identity_dir, by_host, routes)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place to try; `peer` is None for a local replica."""

    endpoint: Endpoint
    local: Local | None
    peer: Peer | None


def candidates(
    route: Route, endpoints: Mapping[str, Endpoint], now: float, randomness: float, *, local_only: bool
) -> list[Candidate]:
    """What to try, best first: local replicas, peers in their order, then what is ejected, as a last resort.

    Draining replicas get new requests only when there is no other local one and no peer.
    """
    by_address = {local.address: local for local in route.local if not local.draining}
    if not by_address and not route.peers:
        by_address = {local.address: local for local in route.local}
    # A request may hold a route of a table that was swapped meanwhile: what is gone from the new one is left out.
    known = [endpoints[address] for address in by_address if address in endpoints]
    ready, out = order(known, now, randomness)
    first = [Candidate(endpoint, by_address[endpoint.address], None) for endpoint in ready]
    last = [Candidate(endpoint, by_address[endpoint.address], None) for endpoint in out]
    if not local_only:
        for peer in route.peers:
            endpoint = endpoints.get(peer.address)
            if endpoint is None:
                continue
            (first if endpoint.available(now) else last).append(Candidate(endpoint, None, peer))
    return (first + last)[:ATTEMPTS_MAX]


def may_retry(*, idempotent: bool, sent: bool, replayable: bool) -> bool:
    """Whether another endpoint may get a request that got no response byte (RFC 9110 section 9.2.2).

    Not sent at all: always, as long as the body can be sent again. Sent: only what may be done twice.
    """
    return replayable and (idempotent or not sent)
