"""What the edge must serve: the routes, with the replicas of this host that are ready or draining."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.core.model import Certificate, Container, Replica, Route


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica of this host, at `address:port`."""

    container_id: str
    resource: str
    address: str
    draining: bool = False


@dataclass(frozen=True, slots=True)
class EdgeRoute:
    """A route with its endpoints on this host."""

    route: Route
    local: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class EdgeView:
    """Everything that the edge must serve."""

    routes: tuple[EdgeRoute, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    revoked: tuple[str, ...] = ()
    """Nodes that are believed no more."""

    def endpoint(self, container_id: str) -> Endpoint | None:
        """The endpoint of a container; None when the edge does not know it."""
        found = (e for route in self.routes for e in route.local if e.container_id == container_id)
        return next(found, None)

    @property
    def ready(self) -> frozenset[str]:
        """Containers that get new requests."""
        return frozenset(e.container_id for route in self.routes for e in route.local if not e.draining)


@dataclass(frozen=True, slots=True)
class Drain:
    """A container that takes no new requests and ends those in progress.

    `endpoint` is None when this agent never published it; an edge may know it from an earlier one. `generation` is the
    edge's that says so, 0 until it is published; `serving_since` is when every edge served it.
    """

    app: str
    endpoint: Endpoint | None
    since: float
    drain_s: float
    generation: int = 0
    serving_since: float | None = None
    idle: bool = False


def _wanted(routes: Iterable[Route], ready: Iterable[Replica]) -> dict[str, str]:
    """By app, the spec hash of the replicas that get requests, where not all do: only as long as one of them is here,
    or another node may have one."""
    here = {(replica.app, replica.spec_hash) for replica in ready}
    named = (route for route in routes if route.only_spec_hash)
    return {r.app: r.only_spec_hash for r in named if r.peers or (r.app, r.only_spec_hash) in here}


def edge_view(
    routes: Iterable[Route],
    ready: Iterable[tuple[Replica, Container]],
    drains: Iterable[Drain],
    certificates: tuple[Certificate, ...] = (),
    revoked: tuple[str, ...] = (),
) -> EdgeView:
    """The view in which ready replicas get requests and draining ones end theirs."""
    local: dict[str, list[Endpoint]] = {}
    there = list(ready)
    wanted = _wanted(routes := list(routes), [replica for replica, _ in there])
    for replica, container in there:
        if replica.ports and replica.speaks_http and container.ip:
            address = f"{container.ip}:{replica.ports[0]}"
            # A release that is not, or no more, to be asked ends the requests that it has.
            aside = wanted.get(replica.app, replica.spec_hash) != replica.spec_hash
            endpoint = Endpoint(container.id, replica.resource, address, draining=aside)
            local.setdefault(replica.app, []).append(endpoint)
    for drain in drains:
        if drain.endpoint is not None:
            local.setdefault(drain.app, []).append(replace(drain.endpoint, draining=True))
    return EdgeView(
        tuple(
            EdgeRoute(route, tuple(sorted(local.get(route.app, ()), key=lambda e: (e.resource, e.container_id))))
            for route in sorted(routes, key=lambda route: route.app)
        ),
        certificates,
        revoked,
    )
