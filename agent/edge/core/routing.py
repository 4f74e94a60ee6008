"""From a host name to the places that may answer: local replicas, then other edges in the given order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core.affinity import NO_WISH, PLAIN, Balancing, Wish, drawn_to, ranked, token_of
from agent.edge.core.balance import Endpoint, order
from agent.edge.core.cache_rules import NO_RULES, CacheRules
from agent.edge.core.http_rules import NO_HTTP_RULES, HttpRules
from agent.edge.core.purges import NO_PURGES, Purges

OBJECT_BYTES_DEFAULT: Final = 8 * 1024 * 1024
ATTEMPTS_MAX: Final = 6
SHIELDS_MAX: Final = 2
"""So many edges above are tried before a request goes on without them."""
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
    redirect: bool = False
    """Plain requests are sent to https."""
    hsts_s: int = 0
    """Answers over TLS tell browsers to stay with it for so long; 0 means that they do not."""
    rules: CacheRules = NO_RULES
    purges: Purges = NO_PURGES
    balancing: Balancing = PLAIN
    http: HttpRules = NO_HTTP_RULES
    proofs: Mapping[bytes, bytes] = field(default_factory=dict)
    """By token, what a certificate authority is answered that asks for it (RFC 8555, section 8.3)."""
    shield: tuple[Peer, ...] = ()
    """Other edges that are asked first for what may be stored."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What clients are shown for some names; `expire_at` in seconds since 1970."""

    name: str
    hostnames: tuple[str, ...]
    chain_pem: str
    key_pem: str = field(repr=False)
    expire_at: float = 0.0


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
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    """By name; the first label of a name may be `*`."""
    guards: bool = False
    """Whether any route answers some requests by itself."""
    revoked: frozenset[str] = frozenset()
    """Nodes that are believed no more, whatever their certificates say."""

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
        for address in [
            *(local.address for local in route.local),
            *(peer.address for peer in (*route.peers, *route.shield)),
        ]:
            match = _ADDRESS.fullmatch(address)
            if match is None or not 0 < int(match[1]) < 65536:
                found.append(f"route {route.app}: {address!r} is not address:port")
    return found


def table(
    generation: int,
    node: str,
    region: str,
    trust_domain: str,
    identity_dir: str,
    routes: tuple[Route, ...],
    certificates: Sequence[Certificate] = (),
    revoked: frozenset[str] = frozenset(),
) -> Table:
    """A table with its indexes of hosts. Of two certificates for a name the one that ends later counts."""
    by_host = {hostname.encode(): route for route in routes for hostname in route.hostnames}
    by_name = {name: c for c in sorted(certificates, key=lambda c: c.expire_at) for name in c.hostnames}
    guards = any(route.redirect or route.http.guards for route in routes)
    return Table(generation, node, region, trust_domain, identity_dir, by_host, routes, by_name, guards, revoked)


def certificate_for(by_name: Mapping[str, Certificate], hostname: str) -> Certificate | None:
    """The certificate for a host: its own, else the wildcard's for its last label (RFC 9525, section 6.3)."""
    found = by_name.get(hostname)
    return by_name.get("*." + hostname.partition(".")[2]) if found is None else found


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place to try; `peer` is None for a local replica."""

    endpoint: Endpoint
    local: Local | None
    peer: Peer | None
    shields: bool = False
    """It is asked as the tier above: it may ask others in turn."""


def candidates(
    route: Route,
    endpoints: Mapping[str, Endpoint],
    now: float,
    randomness: float,
    *,
    local_only: bool,
    wish: Wish = NO_WISH,
) -> list[Candidate]:
    """What to try, best first: local replicas, peers in their order, then what is ejected, as a last resort.

    Draining replicas get new requests only when there is no other local one and no peer, or when the request wants to
    stay with them.
    """
    wanted = wish.token and next((at for at in route.local if token_of(at.replica) == wish.token), None)
    by_address = {local.address: local for local in route.local if not local.draining or local is wanted}
    if not by_address and not route.peers:
        by_address = {local.address: local for local in route.local}
    # A request may hold a route of a table that was swapped meanwhile: what is gone from the new one is left out.
    known = [endpoints[address] for address in by_address if address in endpoints]
    ready, out = order(known, now, randomness)
    ready = ranked(ready, wish.key)
    if wanted:
        ready.sort(key=lambda endpoint: endpoint.address != wanted.address)
    first = [Candidate(endpoint, by_address[endpoint.address], None) for endpoint in ready]
    last = [Candidate(endpoint, by_address[endpoint.address], None) for endpoint in out]
    if not local_only:
        for peer in route.peers:
            endpoint = endpoints.get(peer.address)
            if endpoint is None:
                continue
            (first if endpoint.available(now) else last).append(Candidate(endpoint, None, peer))
    return (first + last)[:ATTEMPTS_MAX]


def shielding(route: Route, endpoints: Mapping[str, Endpoint], now: float, key: bytes) -> list[Candidate]:
    """The edges above to try for a key, best first: the same one for all edges, so that it is stored there once.

    What is ejected is left out: then the request goes where it goes without a shield.
    """
    by_address = {peer.address: peer for peer in route.shield if peer.address in endpoints}
    ready = [endpoints[address] for address in by_address if endpoints[address].available(now)]
    first = drawn_to(ready, key)[:SHIELDS_MAX]
    return [Candidate(endpoint, None, by_address[endpoint.address], True) for endpoint in first]


def may_retry(*, idempotent: bool, sent: bool, replayable: bool) -> bool:
    """Whether another endpoint may get a request that got no response byte (RFC 9110 section 9.2.2).

    Not sent at all: always, as long as the body can be sent again. Sent: only what may be done twice.
    """
    return replayable and (idempotent or not sent)
