"""Reads requests from a client's bytes and refuses what could be read in more than one way.

The parser refuses what is no HTTP; `core.request_head` what is ambiguous; here are the limits on sizes.
RFC 9112 sections 2.2, 3.2, 6.3 and 11.2.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from typing import Final, NoReturn

import httptools

from agent.edge.body import BodyReader
from agent.edge.core import trailers
from agent.edge.core.headers import ONLY_FROM_PEERS, HeaderList, fields_of
from agent.edge.core.request_head import Refused, RequestHead, check, switches
from agent.edge.state import EdgeState

REMEMBERED_BYTES_MAX: Final = 1024
PAUSE_QUEUE: Final = 1
PAUSE_BODY: Final = 2
PAUSE_TUNNEL: Final = 4


class RequestReader(asyncio.Protocol, abc.ABC):
    """The reading half of a client's connection. Requests arrive in order through `arrived`."""

    __slots__ = (
        "_between",
        "_body",
        "_body_bytes_max",
        "_data_at",
        "_deaf",
        "_head",
        "_head_bytes",
        "_head_done",
        "_head_since",
        "_headers",
        "_heads",
        "_key",
        "_kind",
        "_loop",
        "_messages",
        "_parser",
        "_rate",
        "_state",
        "_url",
        "peer",
        "scheme",
    )

    def __init__(self, state: EdgeState, loop: asyncio.AbstractEventLoop, scheme: bytes, peer: bool):
        self._state = state
        self._loop = loop
        self.peer = peer
        self.scheme = scheme
        self._kind = b"peer" if peer else scheme
        self._parser = httptools.HttpRequestParser(self)
        self._heads = state.known_heads.of(self._kind)
        self._deaf = False
        """Nothing more is read."""
        self._data_at = loop.time()
        self._between = True
        """No request has begun that is not whole."""
        self._head_since = 0.0
        self._head_bytes = 0
        self._url = b""
        self._headers: HeaderList = []
        self._head_done = False
        self._body: BodyReader | None = None
        self._body_bytes_max = 0
        self._messages = 0
        self._rate: tuple[float, int] | None = None
        self._head: RequestHead
        self._key = b""

    # ---- what becomes of it

    @abc.abstractmethod
    def arrived(self, head: RequestHead, key: bytes, body: BodyReader | None) -> None:
        """A request is whole, but for the rest of its body."""

    @abc.abstractmethod
    def refused(self, refusal: Refused) -> None:
        """What came is answered by this, after all that arrived before."""

    @abc.abstractmethod
    def upgraded(self, rest: bytes) -> None:
        """The last request asks for a tunnel; these bytes came behind it."""

    @abc.abstractmethod
    def beyond(self, data: bytes) -> None:
        """Bytes came that are no request any more."""

    @abc.abstractmethod
    def pause(self, why: int) -> None:
        """Stops reading for one of the reasons PAUSE_…"""

    @abc.abstractmethod
    def resume(self, why: int) -> None:
        """That reason is gone."""

    # ---- bytes

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self.beyond(data)
            return
        self._data_at = self._loop.time()
        if self._between:
            known = self._heads.get(data)
            if known is not None:
                self.arrived(known[0], known[1], None)
                return
        fresh, messages = self._between, self._messages
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._malformed(error)
            return
        if not self._between:
            if not self._head_done:
                self._head_bytes += len(data)
                if self._head_bytes > 2 * self._state.settings.max_header_bytes:
                    self.refuse(self._too_large())
        elif fresh and self._messages == messages + 1 and len(data) <= REMEMBERED_BYTES_MAX:
            self._remember(data)

    def _remember(self, data: bytes) -> None:
        """A client that asks alike again is not parsed again: parsing depends on nothing but these bytes."""
        head = self._head
        if not head.has_body and not head.upgrade and head.keep_alive and data.endswith(b"\r\n\r\n"):
            self._state.known_heads.remember(self._kind, data, len(data), head, self._key)

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self._deaf:
            return
        if self._body is not None:
            self._body.fail(Refused(400, f"the body is malformed: {error}"))
            self._state.counters.refused_total += 1
            self._deaf = True
        elif self._between and self._messages:
            self._deaf = True  # bytes after a request that said it was the last
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            self.refuse(Refused(400, "the method is not known here, or this is not HTTP/1.1"))
        else:
            self.refuse(Refused(400, f"the request is malformed: {error}"))

    def refuse(self, refusal: Refused) -> None:
        """Nothing more is read."""
        if not self._deaf:
            self._deaf = True
            self._state.counters.refused_total += 1
            self.refused(refusal)

    def _after_upgrade(self, rest: bytes) -> None:
        """The parser stops after a request to upgrade. One that is not granted is a plain request (RFC 9110, 7.8)."""
        if self._deaf:
            return
        self._parser = httptools.HttpRequestParser(self)
        if switches(self._head.upgrade):
            self._deaf = True
            self.upgraded(rest)
        elif rest:
            self.data_received(rest)

    # ---- httptools

    def on_message_begin(self) -> None:
        self._between = False
        self._head_since = self._data_at
        self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._head_done = False

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._state.settings.max_url_bytes:
            self._stop(Refused(414, "the request target is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            if self._body is not None and len(self._body.trailers) <= trailers.FIELDS_MAX:
                self._body.trailers.append((name, value))
            return
        self._headers.append((name, value))
        if len(self._headers) > self._state.settings.max_headers:
            self._stop(Refused(431, "there are too many header fields"))

    def on_headers_complete(self) -> None:
        parser, headers, settings = self._parser, self._headers, self._state.settings
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > settings.max_header_bytes:
            self._stop(self._too_large())
        fields = fields_of(headers)
        if not self.peer:
            for name in ONLY_FROM_PEERS:
                fields.pop(name, None)
        keep_alive = parser.should_keep_alive()
        minor = 1
        if not keep_alive or b"connection" in fields:
            version = parser.get_http_version()
            if version not in ("1.1", "1.0"):
                self._stop(Refused(505, "only HTTP/1.1 and HTTP/1.0 are served here"))
            minor = int(version[2])
        self._head_done = True
        self._head_since = 0.0
        try:
            head = check(parser.get_method(), self._url, headers, fields, minor, keep_alive)
        except Refused as refusal:
            self._stop(refusal)
        if head.has_body:
            self._body_bytes_max = most = self._state.body_bytes_max(head.host)
            if head.content_length > most:
                self._stop(Refused(413, f"the body is larger than {most} bytes"))
        self._head = head
        self._key = self._state.key(self._scheme_of(fields), head.host, head.target)
        if head.has_body:
            self._body = BodyReader(lambda: self.pause(PAUSE_BODY), lambda: self.resume(PAUSE_BODY))
            self._rate = None
            self.arrived(head, self._key, self._body)

    def _scheme_of(self, fields: Mapping[bytes, bytes]) -> bytes:
        """What the client has used: another edge says so, everybody else would say anything."""
        if self.peer and fields.get(b"x-forwarded-proto") == b"https":
            return b"https"
        return self.scheme

    def on_body(self, chunk: bytes) -> None:
        body = self._body
        if body is None:
            self._stop(Refused(400, "a body that was not announced"))
        body.feed(chunk)
        if body.size > self._body_bytes_max:
            refusal = Refused(413, f"the body is larger than {self._body_bytes_max} bytes")
            body.fail(refusal)
            self._state.counters.refused_total += 1
            self._deaf = True
            raise refusal

    def on_message_complete(self) -> None:
        self._between = True
        self._messages += 1
        body, self._body = self._body, None
        if body is not None:
            body.end()
        elif not self._deaf:
            self.arrived(self._head, self._key, None)

    def _stop(self, refusal: Refused) -> NoReturn:
        """Ends the parser's run by an exception that it passes on."""
        self.refuse(refusal)
        raise refusal

    def _too_large(self) -> Refused:
        if not self._headers and not self._head_done and len(self._url) > self._state.settings.max_url_bytes // 2:
            return Refused(414, "the request target is too long")
        return Refused(431, f"the header fields are larger than {self._state.settings.max_header_bytes} bytes")

    # ---- time

    def slow(self, now: float) -> str:
        """Why the client is too slow with its request; empty when it is not. Called every now and then."""
        settings = self._state.settings
        if self._head_since and now - self._head_since > settings.header_timeout_s:
            return f"the request's head took longer than {settings.header_timeout_s:g} s"
        body = self._body
        if body is None or body.paused:
            self._rate = None
            return ""
        if now - self._data_at > settings.idle_timeout_s:
            return f"nothing of the body came for {settings.idle_timeout_s:g} s"
        if self._rate is None:
            self._rate = (now, body.size)
        elif now - self._rate[0] >= settings.body_rate_window_s:
            rate = (body.size - self._rate[1]) / (now - self._rate[0])
            self._rate = (now, body.size)
            if rate < settings.body_rate_min:
                return f"the body comes with less than {settings.body_rate_min} bytes per second"
        return ""
