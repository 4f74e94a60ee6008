"""Bytes both ways between a client and an endpoint after a 101 (RFC 9110 section 7.8)."""

from __future__ import annotations

import asyncio

from agent.edge.upstream import UpstreamConnection


class Tunnel(asyncio.Protocol):
    """Takes the endpoint's bytes as its protocol; the client's come through `from_client`."""

    def __init__(self, client: asyncio.Transport, upstream: UpstreamConnection):
        self._client = client
        self._upstream = upstream
        self._ended = asyncio.get_running_loop().create_future()

    async def run(self, from_client: bytes, from_upstream: bytes) -> None:
        """Passes on what has come already, then everything until either side ends."""
        self._upstream.raw = self
        self._upstream.transport.resume_reading()
        if from_client:
            self._upstream.transport.write(from_client)
        if from_upstream:
            self._client.write(from_upstream)
        await self._ended

    def from_client(self, data: bytes) -> None:
        """The client sent something."""
        self._upstream.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client_lost()

    def client_lost(self) -> None:
        """Either side has ended."""
        if not self._ended.done():
            self._ended.set_result(None)

    def client_full(self) -> None:
        """The client does not take more for now."""
        if not self._upstream.transport.is_closing():
            self._upstream.transport.pause_reading()

    def client_drained(self) -> None:
        """It does again."""
        if not self._upstream.transport.is_closing():
            self._upstream.transport.resume_reading()

    def pause_writing(self) -> None:
        if not self._client.is_closing():
            self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()
