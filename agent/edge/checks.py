"""Looks at endpoints: a connection to a replica, a question after its health to another edge."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.edge import responses
from agent.edge.core import checks
from agent.edge.core.headers import encode_head
from agent.edge.core.routing import Candidate
from agent.edge.pool import Pool
from agent.edge.state import EdgeState
from agent.edge.upstream import UpstreamError

TURN_S: Final = 0.25
AT_ONCE_MAX: Final = 16
TIMEOUT_S: Final = 2.0
_HEALTH: Final = encode_head(b"GET " + responses.HEALTH_PATH + b" HTTP/1.1", [(b"Host", b"edge.locci")])


class Checks:
    """What they find decides about the endpoint until the next request does."""

    def __init__(self, state: EdgeState, pool: Pool):
        self._state = state
        self._pool = pool
        self._looked_at: dict[str, float] = {}
        self._under_way: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(TURN_S * (0.5 + self._state.rng.random()))
                for candidate in self._due():
                    group.create_task(self._look(candidate))

    def _due(self) -> list[Candidate]:
        state, now = self._state, self._state.clock.monotonic()
        table, endpoints = state.table, state.endpoints
        peers = {peer.address: peer for route in table.routes for peer in route.peers}
        locals_ = {local.address: local for route in table.routes for local in route.local}
        self._looked_at = {address: at for address, at in self._looked_at.items() if address in endpoints}
        found = []
        for address in checks.due(endpoints, peers, self._looked_at, now):
            if address in self._under_way or len(self._under_way) >= AT_ONCE_MAX:
                continue
            self._under_way.add(address)
            self._looked_at[address] = now
            found.append(Candidate(endpoints[address], locals_.get(address), peers.get(address)))
        return found

    async def _look(self, candidate: Candidate) -> None:
        state, endpoint = self._state, candidate.endpoint
        state.counters.checks_total += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._ask(candidate)
            endpoint.reached(state.clock.monotonic())
        except (UpstreamError, TimeoutError):
            state.counters.checks_failed_total += 1
            endpoint.failed(state.clock.monotonic(), reached=False)
        finally:
            self._under_way.discard(endpoint.address)

    async def _ask(self, candidate: Candidate) -> None:
        """Raises UpstreamError when it cannot be reached, or is an edge that takes no requests."""
        connection = await self._pool.connect(candidate)
        try:
            if candidate.peer is None:
                return
            connection.begin(b"GET", _HEALTH, TIMEOUT_S)
            await connection.head()
            if connection.status != 200:
                raise UpstreamError(f"it says {connection.status}", sent=True, began=True)
        finally:
            connection.close()
