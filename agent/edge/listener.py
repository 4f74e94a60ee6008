"""Sockets that clients and other edges connect to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from agent.edge.acceptor import Acceptor, networks
from agent.edge.client_tls import ClientTls
from agent.edge.core.rate_limit import client_key
from agent.edge.core.sightings import TCP_INFO_BYTES, round_trip_us
from agent.edge.downstream import ClientConnection
from agent.edge.exchange import Exchange
from agent.edge.handover import ALONE, Handover
from agent.edge.http2 import Http2Connection
from agent.edge.listening import address_of
from agent.edge.peers import PeerTls
from agent.edge.quick_path import install
from agent.edge.state import EdgeState

HANDSHAKE_S: Final = 5.0
TLS_BUFFER_BYTES: Final = 128 * 1024
"""Of what is encrypted no more waits for the client before writers are told."""


Connection = ClientConnection | Http2Connection
install()


class Negotiated(asyncio.Protocol):
    """Stands for a client until it is known which HTTP it speaks (ALPN, RFC 7301)."""

    def __init__(self, listener: Listener, address: bytes):
        self._listener = listener
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        second = tls is not None and tls.selected_alpn_protocol() == "h2"
        speaks = Http2Connection if second else ClientConnection
        protocol: Connection = speaks(self._listener, self._address)
        transport.set_protocol(protocol)
        if isinstance(transport, asyncio.Transport):
            transport.set_write_buffer_limits(high=TLS_BUFFER_BYTES)
        protocol.connection_made(transport)


class Listener:
    """One address, and the connections that came through it."""

    def __init__(
        self,
        state: EdgeState,
        exchange: Exchange,
        loop: asyncio.AbstractEventLoop,
        *,
        peers: PeerTls | None = None,
        clients: ClientTls | None = None,
        handed: Handover = ALONE,
    ):
        """With `peers` for other edges, with `clients` for clients over TLS."""
        self.state = state
        self.exchange = exchange
        self.loop = loop
        self.peer = peers is not None
        self.scheme = b"http" if clients is None else b"https"
        self.tls: ssl.SSLContext | None = None if clients is None else clients.context
        self.connections: set[Connection] = set()
        self._peers = peers
        self._clients = clients
        self._handed = handed
        self._server: asyncio.Server | Acceptor | None = None
        self._acceptors: list[Acceptor] = []
        """Those on which connections may still be in their handshake."""
        self._trusted = networks(state.settings.proxy_protocol_from)

    async def listen(self, text: str) -> int:
        """Begins to accept; returns the port. A listener for peers takes the present certificate."""
        sock = self._handed.listen(text)
        port: int = sock.getsockname()[1]
        if self._peers is not None:
            self.tls = self._peers.server_context()
        before = self._server
        trusted = self._trusted if self._peers is None else ()
        if trusted or self.tls is not None:
            self._server = acceptor = Acceptor(
                self.loop, sock, trusted, self._protocol, self.state.counters, self.tls, HANDSHAKE_S
            )
            self._acceptors = [*(earlier for earlier in self._acceptors if earlier.greetings), acceptor]
        else:
            self._server = await self.loop.create_server(self._protocol, sock=sock)
        if before is not None:
            before.close()
        return port

    def _protocol(self, address: bytes = b"") -> asyncio.Protocol:
        return ClientConnection(self, address) if self._clients is None else Negotiated(self, address)

    def expel_strangers(self) -> None:
        """Ends connections of nodes that are believed no more."""
        for connection in list(self.connections):
            if self._peers is not None and self._peers.stranger(connection.transport, None):
                connection.transport.abort()

    def opened(self, connection: Connection) -> None:
        """A connection came; one too many is told so."""
        counters = self.state.counters
        counters.connections_total += 1
        transport = connection.transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._peers is None:
                self._measure(sock, connection)
        if self._peers is not None and self._peers.stranger(transport, None):
            counters.connections_rejected_total += 1
            transport.abort()
            return
        if len(self.connections) >= self.state.settings.max_connections:
            counters.connections_rejected_total += 1
            connection.turn_away("too many connections; try again")
            return
        most = self.state.settings.client_connections
        if most and self._peers is None:
            client = client_key(connection.address)
            if self.state.clients_connected[client] >= most:
                counters.connections_rejected_total += 1
                connection.turn_away("too many connections of this client; close some, then try again")
                return
            self.state.clients_connected[client] += 1
        self.connections.add(connection)

    def _measure(self, sock: socket.socket, connection: Connection) -> None:
        """Notes how far the client is; what stands behind a load balancer is not seen."""
        if self._trusted and connection.address != address_of(connection.transport):
            return
        try:
            found = round_trip_us(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))
            if found:
                self.state.round_trips.add(connection.address, found)
        except (OSError, ValueError):  # it has gone already, or is no connection over IP
            return

    def closed(self, connection: Connection) -> None:
        """It ended."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        if self.state.settings.client_connections and self._peers is None:
            client, left = client_key(connection.address), self.state.clients_connected
            left[client] -= 1
            if left[client] <= 0:
                del left[client]

    def stop_accepting(self) -> None:
        """New connections are refused from now on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def sweep(self) -> None:
        """Ends what takes too long."""
        now = self.loop.time()
        for connection in list(self.connections):
            connection.sweep(now)

    @property
    def _greetings(self) -> int:
        return sum(acceptor.greetings for acceptor in self._acceptors)

    def drain(self, now: float) -> int:
        """Closes idle connections; returns how many are still to be waited for."""
        for connection in list(self.connections):
            connection.drain(now)
        return sum(1 for connection in self.connections if connection.unsettled) + self._greetings

    def retire(self, now: float) -> int:
        """Lets clients go over to another worker: a connection ends with its next answer, or when it idles.

        Returns how many are left.
        """
        for connection in list(self.connections):
            connection.retire(now)
        return len(self.connections) + self._greetings

    def abort(self) -> None:
        """Ends all connections at once."""
        for acceptor in self._acceptors:
            acceptor.abort()
        for connection in list(self.connections):
            connection.transport.abort()
