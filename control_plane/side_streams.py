"""Calls that nodes make because they were asked to: a node's stream carries the question, a call of its own the answer.

Nothing listens on a host. A call is only taken for an id that was given to that very node and was not used before.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Final

from fleet.errors import Code, LocciError
from locci.v1 import agent_pb2

DIAL_S: Final = 10.0
"""So long a node has to call after it was asked."""
UPLOADS_WAITING_MAX: Final = 8
"""More than that waits at the node: who reads slowly holds back the container's reader, and nobody else."""
STREAMS_MAX: Final = 256


class SideStream:
    """One call that is awaited, or goes on."""

    def __init__(self, node: str):
        self.node = node
        self.taken = asyncio.Event()
        self.closed = asyncio.Event()
        self._uploads: asyncio.Queue[agent_pb2.LogUpload | None] = asyncio.Queue(UPLOADS_WAITING_MAX)

    async def put(self, upload: agent_pb2.LogUpload | None) -> bool:
        """Hands on what the node says, None at its end; False when nobody reads any more."""
        putting = asyncio.ensure_future(self._uploads.put(upload))
        closing = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({putting, closing}, return_when=asyncio.FIRST_COMPLETED)
            return not self.closed.is_set()
        finally:
            putting.cancel()
            closing.cancel()

    async def uploads(self) -> AsyncIterator[agent_pb2.LogUpload]:
        """What the node says, to its end. Raises UNAVAILABLE when it does not call."""
        try:
            async with asyncio.timeout(DIAL_S):
                await self.taken.wait()
        except TimeoutError:
            message = f"node {self.node} did not call back within {DIAL_S:g} s: is its program too old for this?"
            raise LocciError(Code.UNAVAILABLE, "NODE_SILENT", message) from None
        while (upload := await self._uploads.get()) is not None:
            yield upload


class SideStreams:
    """Those of this process."""

    def __init__(self) -> None:
        self._awaited: dict[str, SideStream] = {}
        self._open = 0

    @contextlib.contextmanager
    def expect(self, node: str) -> Iterator[tuple[str, SideStream]]:
        """An id to give to a node, and what it will say. Raises RESOURCE_EXHAUSTED."""
        if self._open >= STREAMS_MAX:
            message = f"{STREAMS_MAX} streams to nodes are open already: close some, or ask again later"
            raise LocciError(Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message)
        identifier, stream = secrets.token_hex(16), SideStream(node)
        self._awaited[identifier] = stream
        self._open += 1
        try:
            yield identifier, stream
        finally:
            self._open -= 1
            self._awaited.pop(identifier, None)
            stream.closed.set()

    def take(self, identifier: str, node: str) -> SideStream:
        """The stream that a node calls for, once. Raises NOT_FOUND."""
        stream = self._awaited.get(identifier)
        if stream is None or stream.node != node:
            message = "nobody waits for this stream: whoever asked has gone, or it was another node that was asked"
            raise LocciError(Code.NOT_FOUND, "STREAM_UNKNOWN", message)
        del self._awaited[identifier]
        stream.taken.set()
        return stream
