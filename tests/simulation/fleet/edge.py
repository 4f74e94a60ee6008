"""A host's edge: what the agent published to it, and the real rules by which it chooses among endpoints."""

from __future__ import annotations

from collections.abc import Callable

from agent.core.edge_view import EdgeRoute, EdgeView
from agent.edge.core.balance import Endpoint, order
from agent.edge.core.checks import due

_TRIES_MAX = 3


class Edge:
    """Keeps its view when the agent ends, and on disk when it ends itself; what it found of endpoints it forgets."""

    def __init__(self) -> None:
        self.view = EdgeView()
        self.generation = 0
        self.up = True
        self.endpoints: dict[str, Endpoint] = {}
        self._looked_at: dict[str, float] = {}

    def take(self, view: EdgeView, generation: int) -> None:
        """Serves by this from now on."""
        self.view, self.generation = view, generation
        known = {address for route in view.routes for address in (*_local(route), *_peers(route))}
        self.endpoints = {a: self.endpoints.get(a) or Endpoint(a) for a in sorted(known)}

    def restart(self) -> None:
        """A fresh process with the last view."""
        self.up = True
        self.endpoints = {}
        self.take(self.view, self.generation)

    def serve(
        self, hostname: str, now: float, chance: float, answers: Callable[[str], bool], *, passed: bool = False
    ) -> bool:
        """Whether a request is answered: by a replica of this host, else by another node's edge, unless one has
        `passed` it on already. `answers` says whether an address answers now."""
        route = next((r for r in self.view.routes if hostname in r.route.hostnames), None)
        if route is None:
            return False
        tries = 0
        for group in (_local(route), () if passed else _peers(route)):
            available, ejected = order([self.endpoints[a] for a in group], now, chance)
            for endpoint in (available or ejected)[: _TRIES_MAX - tries]:
                tries += 1
                endpoint.begin(now)
                good = answers(endpoint.address)
                endpoint.end()
                if good:
                    endpoint.answered(200, now)
                    return True
                endpoint.failed(now, reached=False)
        return False

    def look(self, now: float, reaches: Callable[[str], bool]) -> None:
        """Looks at endpoints without a request, as far as that is due."""
        peers = {address for route in self.view.routes for address in _peers(route)}
        for address in due(self.endpoints, peers, self._looked_at, now):
            self._looked_at[address] = now
            if reaches(address):
                self.endpoints[address].reached(now)
            else:
                self.endpoints[address].failed(now, reached=False)


def _local(route: EdgeRoute) -> tuple[str, ...]:
    return tuple(endpoint.container_id for endpoint in route.local if not endpoint.draining)


def _peers(route: EdgeRoute) -> tuple[str, ...]:
    return tuple(f"edge of {peer.node}" for peer in route.route.peers)
