"""Server-streaming methods as server-sent events (HTML, "Server-sent events").

Each message is one event: `data` is its JSON, `id` its revision or, for events, its sequence. A stream that came to
its end says `event: end`, one that failed `event: error` with a problem document; one that just stops was cut off,
and the client connects again with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from google.protobuf.message import Message

from fleet import contract
from fleet.errors import LocciError

HEARTBEAT_S: Final = 10.0
"""Time between signs of life while nothing happens."""
FIRST_S: Final = 0.25
"""An error within this time is answered with its own status, instead of as an event."""
WRITE_S: Final = 15.0
"""A client that takes nothing for so long is cut off."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a stream depends on besides its messages."""

    headers: dict[str, str]
    closing: asyncio.Event
    still_allowed: Callable[[], Awaitable[object]]
    explain: Callable[[BaseException], tuple[LocciError, bytes]]
    heartbeat_s: float = HEARTBEAT_S


def resume(request: Message, last_event_id: str) -> None:
    """Begins a stream of events after the one that the client saw last."""
    if "after_sequence" in contract.descriptor_of(request).fields_by_name and last_event_id.isdecimal():
        request.after_sequence = min(int(last_event_id[:20]), 2**64 - 1)  # type: ignore[attr-defined]


def encode(message: Message) -> bytes:
    """One event."""
    data = json.dumps(contract.write_json(message), ensure_ascii=False).encode()
    return _id(message) + b"data: " + data + b"\n\n"


def _id(message: Message) -> bytes:
    number = getattr(message, "revision", 0) or getattr(message, "name", "").removeprefix("events/")
    return f"id: {number}\n".encode() if str(number).isdecimal() else b""


async def respond(
    request: web.BaseRequest, messages: AsyncIterator[Message], around: Surroundings
) -> web.StreamResponse:
    """Sends `messages` until they end, the client leaves, its right ends, or the server closes.

    Raises what the messages raise when that comes at once.
    """
    upcoming = asyncio.ensure_future(anext(messages))
    closing = asyncio.ensure_future(around.closing.wait())
    try:
        await asyncio.wait({upcoming, closing}, timeout=FIRST_S, return_when=asyncio.FIRST_COMPLETED)
        if upcoming.done() and upcoming.exception() is not None and not _is_end(upcoming.exception()):
            upcoming.result()
        response = web.StreamResponse(headers={**around.headers, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _write(request, response, b": stream\n\n")
            while not closing.done():
                await asyncio.wait({upcoming, closing}, timeout=around.heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
                chunk, over = await _chunk(upcoming, around)
                await _write(request, response, chunk)
                if over:
                    break
                if upcoming.done():
                    upcoming = asyncio.ensure_future(anext(messages))
        return response
    finally:
        await _end(upcoming, closing, messages)


async def _chunk(upcoming: asyncio.Future[Message], around: Surroundings) -> tuple[bytes, bool]:
    """What to send now, and whether it is the last."""
    try:
        if upcoming.done():
            return encode(upcoming.result()), False
        await around.still_allowed()
        return b": heartbeat\n\n", False
    except StopAsyncIteration:
        return b"event: end\ndata: {}\n\n", True
    except Exception as error:
        _, problem = around.explain(error)
        return b"event: error\ndata: " + problem + b"\n\n", True


def _is_end(error: BaseException | None) -> bool:
    return isinstance(error, StopAsyncIteration)


async def _write(request: web.BaseRequest, response: web.StreamResponse, chunk: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(chunk)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


async def _end(upcoming: asyncio.Future[Any], closing: asyncio.Future[Any], messages: AsyncIterator[Message]) -> None:
    for future in (upcoming, closing):
        future.cancel()
    await asyncio.gather(upcoming, closing, return_exceptions=True)
    close = getattr(messages, "aclose", None)
    if close is not None:
        await close()
