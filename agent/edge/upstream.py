"""One connection to an endpoint: a request out, a response in, again and again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from agent.edge.core import trailers
from agent.edge.core.headers import HOP_BY_HOP, Fields, HeaderList, end_to_end, fields_of, list_members

BUFFER_HIGH_BYTES: Final = 256 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
_NOT_EARLY: Final = HOP_BY_HOP | {b"content-length"}
IDLE_S_MAX: Final = 30.0


class UpstreamError(Exception):
    """The endpoint broke off. `sent`: it may have seen the request; `began`: some of a response came."""

    def __init__(self, message: str, *, sent: bool, began: bool, timed_out: bool = False):
        super().__init__(message)
        self.sent = sent
        self.began = began
        self.timed_out = timed_out

    def again(self) -> UpstreamError:
        """The same, to be raised by who keeps this one: an exception holds all that was there when it was raised."""
        return UpstreamError(str(self), sent=self.sent, began=self.began, timed_out=self.timed_out)


Early = Callable[[int, HeaderList], None]
"""Gets status and fields of an interim response."""


class Sink(Protocol):
    """Who is told when something of a response came, instead of a task that waits for it."""

    def progress(self) -> None:
        """There are fields, bytes of the body, an end or a failure to be looked at."""
        ...


class QuickSink(Sink, Protocol):
    """A sink that may need no parser."""

    def first(self, data: bytes) -> bool:
        """The first bytes of a response; False when they are to be parsed, for whoever is the sink then."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 to one endpoint; one request at a time."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_buffered",
        "_busy",
        "_chunks",
        "_error",
        "_fresh",
        "_head_bytes",
        "_left",
        "_length",
        "_loop",
        "_method",
        "_parser",
        "_paused",
        "_pending",
        "_quick",
        "_reason",
        "_received",
        "_reusable",
        "_sent",
        "_timeout_s",
        "_transport",
        "_waiter",
        "_writable",
        "_write_waiter",
        "address",
        "complete",
        "deadline",
        "early",
        "fields",
        "head_done",
        "headers",
        "idle_since",
        "raw",
        "raw_rest",
        "reason",
        "sink",
        "status",
        "trailers",
        "until_close",
    )

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop):
        self.address = address
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._writable = True
        self._error: UpstreamError | None = None
        self._busy = False
        self._paused = False
        self.idle_since = 0.0
        self.deadline = 0.0
        self.raw: asyncio.Protocol | None = None
        """After a 101: who gets the bytes."""
        self.raw_rest = b""
        self.sink: Sink | None = None
        self.early: Early | None = None
        """Who passes interim responses on; to be set after `begin`."""
        self._quick: QuickSink | None = None
        """Who gets the first bytes of the response."""
        self._reset(b"GET")

    def _reset(self, method: bytes) -> None:
        self._method = method
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._length = 0
        self._left = 0
        """Bytes of a body of known length that are still to come and that no parser needs to see."""
        self._pending: HeaderList = []
        self._head_bytes = 0
        self._reason = b""
        self.status = 0
        self.reason = b""
        self.headers: HeaderList = []
        self.trailers: HeaderList = []
        self.fields: Fields = {}
        self.head_done = False
        self.complete = False
        self.until_close = False
        self._sent = False
        self._began = False
        self._reusable = False
        self._fresh = True
        """Nothing of a response came since."""

    # ---- the request

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an established connection."""
        assert self._transport is not None
        return self._transport

    def begin(self, method: bytes, data: bytes, timeout_s: float) -> None:
        """Sends a request's head, and the body too when it is short."""
        if self._error is not None:
            raise self._error.again()
        assert not self._busy
        self._reset(method)
        self._busy, self._fresh = True, False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._timeout_s = timeout_s
        self._sent = True
        self.transport.write(data)
        self.deadline = self._loop.time() + timeout_s

    def begin_quick(self, data: bytes, sink: QuickSink, now: float, timeout_s: float) -> None:
        """As `begin` for a whole GET, on a connection that `Pool.take` has just found ready."""
        if not self._fresh:
            self._reset(b"GET")
        self.sink = self._quick = sink
        self._busy = self._sent = True
        self._timeout_s = timeout_s
        self.deadline = now + timeout_s
        assert self._transport is not None
        self._transport.write(data)

    def parse(self) -> None:
        """The response to what `begin_quick` has sent is left to the parser, from its first byte."""
        self._quick, self._fresh = None, False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    def head_taken(self, status: int, length: int, received: int) -> None:
        """A quick sink has understood the head; the body has that length, and some of it was received with the head."""
        self.status, self.head_done, self._began = status, True, True
        self._length, self._received, self._left = length, received, length - received
        self._fresh, self._reusable, self._parser = False, True, None

    async def write(self, data: bytes) -> None:
        """Sends more of the body, at the endpoint's pace."""
        if self._error is not None:
            raise self._error.again()
        self.deadline = self._loop.time() + self._timeout_s
        self.transport.write(data)
        while not self._writable and self._error is None:
            self._write_waiter = self._loop.create_future()
            await self._write_waiter
        if self._error is not None:
            raise self._error.again()

    # ---- the response

    async def head(self) -> None:
        """Returns when status and fields are there. Raises UpstreamError."""
        while not self.head_done:
            await self._wait()

    @property
    def available(self) -> bool:
        """Whether `read` would not wait."""
        return bool(self._chunks) or self.complete or self._error is not None

    async def read(self) -> bytes:
        """The body's next bytes; b"" at its end. Raises UpstreamError when it is cut short."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        data = self.take()
        self.resume()
        return data

    def take(self) -> bytes:
        """What has come of the body and was not taken so far; does not let a paused endpoint go on."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        return data

    def pause(self) -> None:
        """Nobody can take more for now; the endpoint is not to blame for the silence."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """More can be taken."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.deadline = self._loop.time() + self._timeout_s
            self.transport.resume_reading()

    @property
    def error(self) -> UpstreamError | None:
        """Why nothing more will come; a body that is complete is not spoilt by it."""
        return self._error

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error.again()
        self._waiter = self._loop.create_future()
        await self._waiter
        if self._error is not None and not self._chunks and not self.complete:
            raise self._error.again()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent now."""
        if self._error is not None:
            return False
        return self._fresh or (self.complete and self._reusable and not self._chunks)

    def ready(self, now: float, idle_s_max: float = IDLE_S_MAX) -> bool:
        """Whether it has waited for the next request no longer than that, and is still good for it."""
        if self._error is not None or now - self.idle_since >= idle_s_max or self._transport is None:
            return False
        reusable = self._fresh or (self.complete and self._reusable and not self._chunks)
        return reusable and not self._transport.is_closing()

    def rest(self, now: float) -> None:
        """The response was taken; the connection waits for the next request."""
        self._busy = False
        self._quick = self.sink = self.early = None
        self.deadline = 0.0
        self.idle_since = now
        if self._method == b"HEAD":
            self._parser = None  # it would wait for a body that a response to HEAD has not got

    def close(self) -> None:
        """Ends the connection at once."""
        self._fail("closed")
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """There is no connection after all; a transport that was made for it may never say so."""
        self.close()
        self._transport = None  # each holds the other

    def expire(self, now: float) -> None:
        """Fails the exchange when nothing came for too long."""
        if self._busy and self.raw is None and now > self.deadline > 0 and not self._paused:
            self._fail(f"{self.address} sent nothing for {self._timeout_s:g} s", timed_out=True)
            self.transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.raw is not None:
            self.raw.data_received(data)
            return
        quick = self._quick
        if quick is not None:
            self._quick = None
            if quick.first(data):
                return
        if not self._busy or self.complete or (self._parser is None and not self._left):
            self._fail("bytes that nobody asked for")  # the next response could be forged by them
            self.transport.abort()
            return
        self._began = True
        self.deadline = self._loop.time() + self._timeout_s
        if self._left:
            self._more(data)
            return
        if not self.head_done:
            self._head_bytes += len(data)
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.raw_rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._reusable = False
            if not self.complete:
                self._fail(f"{self.address} answered with something that is not HTTP: {error}")
                self.transport.abort()
        if not self.head_done and self._head_bytes > HEAD_BYTES_MAX:
            self._fail(f"{self.address} answered with a head of more than {HEAD_BYTES_MAX} bytes")
            self.transport.abort()
        elif self._length and self.head_done and not self.complete and self._error is None:
            self._left = self._length - self._received
            self._parser = None  # it has seen only a part of this response
        self._wake()

    def _more(self, data: bytes) -> None:
        """The rest of a body of known length: nothing in it needs to be understood."""
        if len(data) > self._left:
            data = data[: self._left]
            self._reusable = False  # the next response could be forged by what comes behind
        self._left -= len(data)
        self.complete = not self._left
        self.on_body(data)
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.raw is not None:
            self._parser = None
            self.raw.connection_lost(exc)
            return
        if self._busy and self.head_done and self.until_close and exc is None and self._error is None:
            self.complete = True  # RFC 9112 section 6.3, rule 8
        self._reusable = False
        self._fail("the endpoint closed the connection")
        self._parser = None  # each holds the other

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)
        if self.raw is not None:
            self.raw.resume_writing()

    # ---- httptools

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a second response")
        self._pending = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:
            self._pending.append((name, value))
        elif len(self.trailers) <= trailers.FIELDS_MAX:
            self.trailers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            if status != 100 and self.early is not None:  # who waits for 100 has got it from the edge
                self.early(status, end_to_end(self._pending, fields_of(self._pending), _NOT_EARLY))
            return
        if not 101 <= status <= 599:
            raise ValueError("a status that does not exist")
        self.status, self.reason, self.headers = status, self._reason, self._pending
        self.fields = fields_of(self.headers)
        coding = self.fields.get(b"transfer-encoding")
        if coding is not None and list_members(coding) != [b"chunked"]:
            raise ValueError("a transfer coding other than chunked")
        bodiless = status in (204, 304) or self._method == b"HEAD"
        framed = coding is not None or b"content-length" in self.fields
        self.until_close = not framed and not bodiless and status != 101
        self._reusable = parser.should_keep_alive() and not self.until_close and status != 101
        if coding is None and framed and not bodiless:
            self._length = int(self.fields[b"content-length"])
        self.head_done = True
        if self._method == b"HEAD":
            self.complete = True

    def on_body(self, chunk: bytes) -> None:
        if self._method == b"HEAD":
            raise ValueError("a body after HEAD")
        self._chunks.append(chunk)
        self._received += len(chunk)
        self._buffered += len(chunk)
        if self._buffered > BUFFER_HIGH_BYTES and self.sink is None:
            self.pause()

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True

    # ----

    def _fail(self, message: str, timed_out: bool = False) -> None:
        if self._error is None:
            self._error = UpstreamError(message, sent=self._sent, began=self._began, timed_out=timed_out)
        self._wake()
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    def _wake(self) -> None:
        if self.sink is not None:
            self.sink.progress()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
