"""Request bodies on their way from a client to an endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.edge.core.headers import HeaderList
from agent.edge.core.request_head import Refused

BUFFER_HIGH_BYTES: Final = 64 * 1024
BUFFER_LOW_BYTES: Final = 16 * 1024
REPLAY_BYTES_MAX: Final = 64 * 1024


class BodyReader:
    """Chunks of one request's body, with back-pressure towards the client through `pause` and `resume`."""

    __slots__ = (
        "_chunks",
        "_failure",
        "_pause",
        "_paused",
        "_resume",
        "_waiter",
        "buffered",
        "complete",
        "discarding",
        "size",
        "trailers",
    )

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]):
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Refused | None = None
        self.trailers: HeaderList = []
        """What came behind it, at most a few more than are passed on."""
        self._pause = pause
        self._resume = resume
        self._paused = False
        self.buffered = 0
        self.size = 0
        self.complete = False
        self.discarding = False

    @property
    def paused(self) -> bool:
        """Whether the client has to wait for us."""
        return self._paused

    def feed(self, chunk: bytes) -> None:
        """Bytes came."""
        self.size += len(chunk)
        if self.discarding:
            return
        self._chunks.append(chunk)
        self.buffered += len(chunk)
        if self.buffered > BUFFER_HIGH_BYTES and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.complete = True
        self._wake()

    def fail(self, refusal: Refused) -> None:
        """The body will never be whole."""
        self._failure = refusal
        self._wake()

    def discard(self) -> None:
        """Nobody wants the rest."""
        self.discarding = True
        self._chunks.clear()
        self.buffered = 0
        self._unpause()

    def release(self) -> None:
        """Whoever was to be told of pauses is gone."""
        self._pause = self._resume = _nobody

    async def read(self) -> bytes:
        """What has come since the last call; b"" at the end. Raises Refused when the body is too large or slow."""
        while not self._chunks:
            if self._failure is not None:
                raise self._failure.again()
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.buffered = 0
        self._unpause()
        return data

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            self._resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _nobody() -> None:
    """Who is told when there is nobody."""


class ReplayBody:
    """A body that can be read from its start again as long as no more than `REPLAY_BYTES_MAX` were read of it."""

    def __init__(self, reader: BodyReader):
        self._reader = reader
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._position = 0
        self.replayable = True

    @property
    def trailers(self) -> HeaderList:
        """What came behind it, once it was read to its end."""
        return self._reader.trailers

    def rewind(self) -> None:
        """The next read begins at the start."""
        self._position = 0

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        if self._position < len(self._kept):
            self._position += 1
            return self._kept[self._position - 1]
        data = await self._reader.read()
        if not data:
            return data
        self._kept_bytes += len(data)
        if self._kept_bytes > REPLAY_BYTES_MAX:
            self.replayable = False
            self._kept.clear()
            self._position = 0
        elif self.replayable:
            self._kept.append(data)
            self._position += 1
        return data
