"""Connections to endpoints that are kept for the next request."""

from __future__ import annotations

import asyncio
import weakref
from typing import Final

from agent.edge.core.routing import Candidate
from agent.edge.peers import PeerTls
from agent.edge.upstream import IDLE_S_MAX, UpstreamConnection, UpstreamError

IDLE_PER_ENDPOINT_MAX: Final = 128
IDLE_S_MAX_UNSAFE: Final = 1.0
"""A request that must not be done twice gets a connection that was used this recently, or a new one."""


class Pool:
    """Idle connections by address; opens new ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect_timeout_s: float, tls: PeerTls):
        self._loop = loop
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self.kept: dict[str, list[UpstreamConnection]] = {}
        """Idle connections by address, the last used last."""
        self._all: weakref.WeakSet[UpstreamConnection] = weakref.WeakSet()

    def take(self, address: str, now: float, *, idempotent: bool = True) -> UpstreamConnection | None:
        """A kept connection, the last used first."""
        idle = self.kept.get(address)
        limit = IDLE_S_MAX if idempotent else IDLE_S_MAX_UNSAFE
        while idle:
            connection = idle.pop()
            if connection.ready(now, limit):
                return connection
            connection.close()
        return None

    async def connect(self, candidate: Candidate) -> UpstreamConnection:
        """A new connection. Raises UpstreamError, not sent, when there is none within the time."""
        address = candidate.endpoint.address
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        context = None
        if candidate.peer is not None:
            context = self._tls.client_context()
            if context is None:
                raise UpstreamError(f"{address}: this edge has no identity to show", sent=False, began=False)
        connection = UpstreamConnection(address, self._loop)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._loop.create_connection(
                    lambda: connection,
                    host,
                    int(port),
                    ssl=context,
                    server_hostname="" if context is not None else None,
                )
        except asyncio.CancelledError:
            connection.give_up()
            raise
        except (OSError, TimeoutError) as error:
            connection.give_up()
            why = "no connection in time" if isinstance(error, TimeoutError) else str(error)
            raise UpstreamError(f"{address}: {why}", sent=False, began=False) from error
        if candidate.peer is not None and (why := self._tls.stranger(connection.transport, candidate.peer)):
            connection.close()
            raise UpstreamError(f"{address}: {why}", sent=False, began=False)
        self._all.add(connection)
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """The exchange is over: kept when it can be used again, closed otherwise."""
        if not connection.reusable or connection.transport.is_closing():
            connection.close()
            return
        connection.rest(self._loop.time())
        self.keep(connection)

    def keep(self, connection: UpstreamConnection) -> None:
        """For the next request, which it is ready for."""
        idle = self.kept.get(connection.address)
        if idle is None:
            idle = self.kept[connection.address] = []
        idle.append(connection)
        if len(idle) > IDLE_PER_ENDPOINT_MAX:
            idle.pop(0).close()

    def sweep(self, known: set[str]) -> None:
        """Closes what idles for too long or leads to an endpoint that is gone; fails what does not move."""
        now = self._loop.time()
        for address in list(self.kept):
            limit = IDLE_S_MAX if address in known else 0.0
            keep = []
            for connection in self.kept[address]:
                if connection.reusable and now - connection.idle_since < limit:
                    keep.append(connection)
                else:
                    connection.close()
            self.kept[address][:] = keep
            if address not in known:
                del self.kept[address]
        for connection in list(self._all):
            connection.expire(now)

    def forget_peers(self) -> None:
        """Closes every idle connection: after our certificate changed."""
        for idle in self.kept.values():
            for connection in idle:
                connection.close()
            idle.clear()
