"""Accepts connections that are not plain: over TLS, or through a load balancer that says who its client is.

How many are on their way to be clients is bounded, and how long they take; when there are too many the oldest goes,
for who means it is ready soon. The load balancer's header stands in front of TLS too. So it is read from the bare
socket, byte for byte no further than it goes, and only then does the connection get its transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from agent.edge.core import proxy_header
from agent.edge.core.proxy_header import Source
from agent.edge.counters import Counters
from agent.edge.tls import TlsConnection
from fleet.errors import invalid

ACCEPTS_AT_ONCE: Final = 64
GREETINGS_MAX: Final = 1024
"""Connections whose header or handshake is not over."""
GREETING_S: Final = 5.0
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MakeProtocol = Callable[[bytes], asyncio.BaseProtocol]


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks as written in settings. Raises INVALID_ARGUMENT."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise invalid("proxy_protocol_from", f"{error}; give addresses or networks, as in 10.0.0.0/8") from error


class Acceptor:
    """Stands in for a server of the loop: connections from `trusted` must begin with a header, others are plain."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        trusted: tuple[Network, ...],
        make: MakeProtocol,
        counters: Counters,
        tls: ssl.SSLContext | None,
        handshake_s: float,
    ):
        """`make` gets the client's address, or nothing when it is that of the connection."""
        self._loop = loop
        self._sock = sock
        self._trusted = trusted
        self._make = make
        self._counters = counters
        self._tls = tls
        self._handshake_s = handshake_s
        self._tasks: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Accepts no more; who has begun with a header or a handshake may finish it."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def abort(self) -> None:
        """Sends away who has not finished."""
        for task in list(self._tasks):
            task.cancel()

    @property
    def greetings(self) -> int:
        """How many connections have not finished."""
        return len(self._tasks)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, peer = self._sock.accept()
            except OSError:  # nobody waits any more, or has gone, or there are no descriptors for now
                return
            connection.setblocking(False)
            if len(self._tasks) >= GREETINGS_MAX:
                self._counters.connections_rejected_total += 1
                oldest = next(iter(self._tasks))
                del self._tasks[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._welcome(connection, peer[0]))
            self._tasks[task] = None
            task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _welcome(self, connection: socket.socket, peer: str) -> None:
        try:
            address = b""
            if self._trusted and self._is_trusted(peer):
                async with asyncio.timeout(GREETING_S):
                    address = (await self._greeting(connection)).address or b""
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: self._make(address), connection)
            else:
                await self._shake_hands(self._tls, connection, address)
        except ValueError:
            self._counters.refused_total += 1
            connection.close()
        except (OSError, TimeoutError, asyncio.CancelledError):
            connection.close()

    async def _shake_hands(self, context: ssl.SSLContext, connection: socket.socket, address: bytes) -> None:
        """Raises OSError, of which TimeoutError and SSLError are some."""
        tls = TlsConnection(self._loop, context, lambda: self._make(address))
        await self._loop.connect_accepted_socket(lambda: tls, connection)
        try:
            async with asyncio.timeout(self._handshake_s):
                await tls.shaken
        except BaseException:
            tls.give_up()
            raise

    def _is_trusted(self, peer: str) -> bool:
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    async def _greeting(self, connection: socket.socket) -> Source:
        """Raises ValueError for what is no header, OSError when the connection ends."""
        have = b""
        while (found := proxy_header.parse(have)) is None:
            await self._readable(connection)
            ahead = b""
            with contextlib.suppress(BlockingIOError):
                ahead = connection.recv(proxy_header.V2_BYTES_MAX, socket.MSG_PEEK)
                if not ahead:
                    raise ConnectionResetError("the load balancer has gone")
            if ahead:
                have += connection.recv(proxy_header.belonging(have, ahead))
        return found

    async def _readable(self, connection: socket.socket) -> None:
        there = asyncio.Event()
        self._loop.add_reader(connection.fileno(), there.set)
        try:
            await there.wait()
        finally:
            self._loop.remove_reader(connection.fileno())
