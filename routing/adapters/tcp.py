"""The TCP listener (RFC 7766): pipelined queries, answered in order, on a bounded number of connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from routing.adapters.udp import Respond

Transfer = Callable[[bytes, bytes], Sequence[bytes] | None]
"""From a query and its packed source address to the messages of a transfer; None when it is none."""

_LENGTH_BYTES: Final = 2
_BUFFER_MAX: Final = 4 * 65_537


class TcpListener:
    """Counts and bounds the connections of all TCP sockets of the program."""

    def __init__(
        self, respond: Respond, transfer: Transfer, *, connections_max: int, per_network_max: int, idle_s: float
    ):
        self.respond = respond
        self.transfer = transfer
        self.idle_s = idle_s
        self._connections_max = connections_max
        self._per_network_max = per_network_max
        self.leaving = False
        self._servers: list[asyncio.Server] = []
        # In the order of their last whole query: the one that was idle longest comes first.
        self._connections: dict[_Connection, None] = {}
        self._by_network: dict[bytes, dict[_Connection, None]] = {}

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def listen(self, host: str, port: int, shared: bool = False) -> int:
        """Begins to answer at an address, which other processes may share; the port that it is bound to. Raises
        OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Connection(self), host, port, family=family, backlog=512, reuse_port=shared or None
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def adopt(self, bound: socket.socket) -> None:
        """Begins to answer at a socket that listens already."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: _Connection(self), sock=bound, backlog=512))

    def filenos(self) -> list[int]:
        """The descriptors of the sockets that listen, in the order in which they began to."""
        return [server.sockets[0].fileno() for server in self._servers]

    def leave(self) -> None:
        """Another process answers from now on: what was asked here gets its answer, and then connections end."""
        for server in self._servers:
            server.close()
        self._servers = []
        self.leaving = True
        for connection in tuple(self._connections):
            connection.leave()

    def close(self) -> None:
        """Ends all connections and listeners."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.abort()

    def opened(self, connection: _Connection) -> None:
        """Makes room by ending the connection that was idle longest (RFC 7766, section 6.2.2): of those of the same
        network (/24, /56) when that has too many, so that nobody's crowd puts an end to others."""
        neighbours = self._by_network.setdefault(connection.network, {})
        if len(neighbours) >= self._per_network_max:
            next(iter(neighbours)).abort()
        elif len(self._connections) >= self._connections_max:
            next(iter(self._connections)).abort()
        self._connections[connection] = None
        self._by_network.setdefault(connection.network, {})[connection] = None

    def used(self, connection: _Connection) -> None:
        """A whole query came in."""
        if self._connections.pop(connection, 0) is None:
            self._connections[connection] = None
            neighbours = self._by_network[connection.network]
            del neighbours[connection]
            neighbours[connection] = None

    def closed(self, connection: _Connection) -> None:
        """It is gone."""
        if self._connections.pop(connection, 0) is None:
            neighbours = self._by_network[connection.network]
            del neighbours[connection]
            if not neighbours:
                del self._by_network[connection.network]


class _Connection(asyncio.Protocol):
    def __init__(self, listener: TcpListener):
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._source = b""
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._unsent = 0
        self.network = b""
        self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, so there is nothing to check here.
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:
            self._transport.abort()
            return
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        self._source = socket.inet_pton(family, peer[0].partition("%")[0])
        self.network = self._source[:3] if family == socket.AF_INET else self._source[:7]
        self._listener.opened(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.closed(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_all()

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._answer_all()

    def eof_received(self) -> None:
        """Whatever was asked has been answered: the default closes the connection."""

    def leave(self) -> None:
        """Ends when what was written has gone out; one that has not asked so far is about to, and gets its answer."""
        if self._asked and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends at once."""
        if self._transport is not None:
            self._transport.abort()
        self._listener.closed(self)

    def _answer_all(self) -> None:
        transport, buffer, answered = self._transport, self._buffer, False
        if transport is None or transport.is_closing():
            return
        while len(buffer) >= _LENGTH_BYTES and not self._paused:
            end = _LENGTH_BYTES + (buffer[0] << 8 | buffer[1])
            if len(buffer) < end:
                break
            query = bytes(buffer[_LENGTH_BYTES:end])
            del buffer[:end]
            answers: Sequence[bytes | None] = self._listener.transfer(query, self._source) or (
                self._listener.respond(query, self._source, True),
            )
            answered = True
            for answer in answers:
                if answer is not None:
                    transport.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
        if len(buffer) > _BUFFER_MAX:
            self.abort()
        elif answered:
            self._unsent = transport.get_write_buffer_size() + 1
            self._asked = True
            self._listener.used(self)
            self._rest()
            if self._listener.leaving:
                transport.close()

    def _rest(self) -> None:
        """Half a query does not keep a connection: only whole ones put its end off."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._listener.idle_s, self._expire)

    def _expire(self) -> None:
        """Ends it, unless it is taking in what it has asked for: a transfer may be long."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        if unsent and unsent < self._unsent:
            self._unsent = unsent
            self._rest()
        else:
            self.abort()
