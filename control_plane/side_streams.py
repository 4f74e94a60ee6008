"""Calls that nodes make because they were asked to: a node's stream carries the question, a call of its own the answer.

Nothing listens on a host. A call is only taken for an id that was given to that very node and was not used before.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final, Generic, TypeVar

from fleet.errors import Code, LocciError
from locci.v1 import agent_pb2

DIAL_S: Final = 10.0
"""So long a node has to call after it was asked."""
UPLOADS_WAITING_MAX: Final = 8
"""More than that waits at the node: who reads slowly holds back the container's reader, and nobody else."""
STREAMS_MAX: Final = 256
STREAMS_PER_CALLER_MAX: Final = 64
DOWNLOADS_WAITING_MAX: Final = 8

U = TypeVar("U", agent_pb2.LogUpload, agent_pb2.ExecUpload)


class SideStream(Generic[U]):
    """One call that is awaited, or goes on; `kind` is the message in which the node speaks."""

    def __init__(self, node: str, kind: type[U]):
        self.node = node
        self.kind: type[U] = kind
        self.taken = asyncio.Event()
        self.closed = asyncio.Event()
        self._uploads: asyncio.Queue[U | None] = asyncio.Queue(UPLOADS_WAITING_MAX)
        self.downloads: asyncio.Queue[agent_pb2.ExecDownload] = asyncio.Queue(DOWNLOADS_WAITING_MAX)
        """What the node is told meanwhile."""

    async def put(self, upload: U | None) -> bool:
        """Hands on what the node says, None at its end; False when nobody reads any more."""
        putting = asyncio.ensure_future(self._uploads.put(upload))
        closing = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({putting, closing}, return_when=asyncio.FIRST_COMPLETED)
            return not self.closed.is_set()
        finally:
            putting.cancel()
            closing.cancel()

    async def uploads(self) -> AsyncIterator[U]:
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
        self._awaited: dict[str, SideStream[agent_pb2.LogUpload] | SideStream[agent_pb2.ExecUpload]] = {}
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def expect(self, node: str, kind: type[U], principal: str) -> Iterator[tuple[str, SideStream[U]]]:
        """An id to give to a node, and what it will say to who asks. Raises RESOURCE_EXHAUSTED."""
        for count, limit, whose in (
            (self._open.total(), STREAMS_MAX, ""),
            (self._open[principal], STREAMS_PER_CALLER_MAX, f" for {principal}"),
        ):
            if count >= limit:
                message = f"{limit} streams to nodes are open already{whose}: close some, or ask again later"
                raise LocciError(Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message)
        identifier, stream = secrets.token_hex(16), SideStream(node, kind)
        self._awaited[identifier] = stream
        self._open[principal] += 1
        try:
            yield identifier, stream
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]
            self._awaited.pop(identifier, None)
            stream.closed.set()

    def take(self, identifier: str, node: str, kind: type[U]) -> SideStream[U]:
        """The stream that a node calls for, once. Raises NOT_FOUND."""
        stream = self._awaited.get(identifier)
        if stream is None or stream.node != node or stream.kind is not kind:
            message = "nobody waits for this stream: whoever asked has gone, or it was another node that was asked"
            raise LocciError(Code.NOT_FOUND, "STREAM_UNKNOWN", message)
        del self._awaited[identifier]
        stream.taken.set()
        return stream
