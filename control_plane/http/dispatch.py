"""One HTTP request from its arrival to its answer: find the method, authenticate, read, bind, call, encode."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import prometheus_client
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from google.protobuf.message import Message

from control_plane.core.quota import Quotas
from control_plane.http import admission, binding, metrics, problems, streams
from control_plane.http.routes import Match, RouteTable
from control_plane.http.streams import HEARTBEAT_S
from control_plane.services.caller import ANONYMOUS, Caller
from fleet import contract
from fleet.errors import Code, LocciError, invalid

Authenticate = Callable[[str], Awaitable[Caller]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]{1,1024})", re.IGNORECASE)
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[01](?:\.\d{0,3})?))?\s*(?:,|$)", re.IGNORECASE)
_GZIP_BYTES_MIN: Final = 1024
_GZIP_BYTES_INLINE: Final = 256 * 1024
_HEADERS: Final = {"Server": "locci", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener."""

    body_bytes: int = 1 << 20
    body_s: float = 10.0
    request_s: float = 30.0
    requests: int = 256
    streams: int = 256
    enrol_burst: int = 20
    enrol_every_s: float = 3.0
    heartbeat_s: float = HEARTBEAT_S


@dataclass(slots=True)
class _Seen:
    """What is known of a request, for its log line and its metrics."""

    id: str
    method: str = "none"
    principal: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class Api:
    """Answers requests; never raises for what a client sent."""

    def __init__(
        self,
        table: RouteTable,
        authenticate: Authenticate,
        readiness: Callable[[], str],
        openapi: Callable[[], bytes],
        limits: Limits,
        quotas: Quotas,
    ):
        self._table = table
        self._authenticate = authenticate
        self._readiness = readiness
        self._openapi = openapi
        self._limits = limits
        self._quotas = quotas
        self._requests = admission.Slots(limits.requests)
        self._streams = admission.Slots(limits.streams)
        self._enrolments = admission.Attempts(limits.enrol_burst, limits.enrol_every_s)
        self.closing = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request."""
        given = request.headers.get("X-Request-Id", "")
        seen = _Seen(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        seen.headers = {**_HEADERS, "X-Request-Id": seen.id}
        structlog.contextvars.bind_contextvars(request_id=seen.id, client=request.remote or "")
        started = time.monotonic()
        try:
            response = await self._answer(request, seen)
        except Exception as error:
            response = self._problem(error, request.path, seen)
        self._record(request, response.status, seen, time.monotonic() - started)
        return response

    def _record(self, request: web.BaseRequest, status: int, seen: _Seen, seconds: float) -> None:
        metrics.REQUESTS.labels(seen.method, str(status)).observe(seconds)
        line = log.debug if seen.method in _PAGES else log.info
        line(
            "request",
            method=request.method,
            path=request.path[:200],
            status=status,
            rpc=seen.method,
            principal=seen.principal,
            seconds=round(seconds, 4),
        )

    def explain(self, error: BaseException, instance: str, seen: _Seen) -> tuple[LocciError, bytes]:
        """The error as clients see it, and its problem document; what is not of the taxonomy is logged."""
        if isinstance(error, TimeoutError):
            message = (
                f"the request took longer than {self._limits.request_s:g} s; look whether it was done, then try again"
            )
            error = LocciError(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", message)
        if not isinstance(error, LocciError):
            log.error("request failed", exc_info=error)
            message = f"something went wrong in the control plane; its log has more under request id {seen.id}"
            error = LocciError(Code.INTERNAL, "INTERNAL", message)
        return error, problems.encode(error, instance, seen.id)

    def _problem(self, error: BaseException, instance: str, seen: _Seen) -> web.Response:
        explained, body = self.explain(error, instance[:500], seen)
        headers = {**seen.headers, "Content-Type": problems.CONTENT_TYPE}
        if isinstance(explained, problems.HttpError):
            headers.update(explained.headers)
        return web.Response(status=problems.status_of(explained), body=body, headers=headers)

    async def _answer(self, request: web.BaseRequest, seen: _Seen) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path in _PAGES:
            return await self._page(path, request, seen)
        if request.method == "OPTIONS":
            return self._options(path, seen)
        match = self._table.match(request.method, path)
        seen.method = match.route.label
        _check_accept(request, "text/event-stream" if match.route.streaming else "application/json")
        token = _bearer_token(request)
        if match.route.access == "operator":
            caller = await self._caller(token)
        else:
            self._limit_enrolment(match, request.remote or "")
            caller = ANONYMOUS
        seen.principal = caller.principal
        if match.route.access != "operator":
            return await self._unary(match, request, caller, seen)
        watch = match.route.streaming
        self._enter(caller, watch, seen)
        try:
            if watch:
                return await self._stream(match, request, caller, token, seen)
            return await self._unary(match, request, caller, seen)
        finally:
            self._quotas.leave(caller.principal, watch=watch)

    def _enter(self, caller: Caller, watch: bool, seen: _Seen) -> None:
        """Counts a request against what its caller may do; the answer says what is left."""
        try:
            left = self._quotas.enter(caller.principal, time.monotonic(), watch=watch)
        except LocciError as error:
            metrics.REFUSED.labels("quota").inc()
            raise problems.too_many(error.message, float(error.metadata["retry_after_s"]), error.reason) from None
        if left is not None:
            seen.headers["RateLimit-Limit"] = str(left.limit)
            seen.headers["RateLimit-Remaining"] = str(left.remaining)
            seen.headers["RateLimit-Reset"] = str(left.reset_s)

    def _options(self, path: str, seen: _Seen) -> web.Response:
        try:
            self._table.match("OPTIONS", path)
        except problems.HttpError as error:
            if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
                raise
            return web.Response(status=204, headers={**seen.headers, **error.headers})
        raise AssertionError("no rule binds OPTIONS")

    async def _caller(self, token: str) -> Caller:
        """Who is calling; the same words for every way in which a token can be wrong."""
        if not token:
            message = "a bearer token is needed: send `Authorization: Bearer TOKEN`"
            raise problems.unauthenticated("TOKEN_MISSING", message)
        try:
            return await self._authenticate(token)
        except LocciError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            message = "the bearer token is not valid: it is wrong, has ended or was taken back; get a new one"
            raise problems.unauthenticated("TOKEN_INVALID", message) from None

    def _limit_enrolment(self, match: Match, address: str) -> None:
        if match.route.http_method != "POST":
            return
        wait_s = self._enrolments.wait_s(address, time.monotonic())
        if wait_s > 0:
            metrics.REFUSED.labels("enrolments").inc()
            raise problems.too_many(f"too many attempts from {address}; try again in {wait_s:.0f} s", wait_s)

    async def _unary(self, match: Match, request: web.BaseRequest, caller: Caller, seen: _Seen) -> web.Response:
        if not self._requests.take():
            metrics.REFUSED.labels("requests").inc()
            raise problems.overloaded(f"more than {self._limits.requests} requests are in progress; try again")
        try:
            with metrics.IN_PROGRESS.track_inprogress():
                async with asyncio.timeout(self._limits.request_s):
                    message = await self._message(match, request)
                    answer: Message = await match.route.call(message, caller)
                    body = json.dumps(contract.write_json(answer), ensure_ascii=False).encode()
                    return await _encoded(body, "application/json", request, seen.headers)
        finally:
            self._requests.give_back()

    async def _message(self, match: Match, request: web.BaseRequest) -> Message:
        body = await read_body(request, self._limits)
        if body and match.route.body:
            _check_media_type(request)
        return binding.bind(match, _query(request), body)

    async def _stream(
        self, match: Match, request: web.BaseRequest, caller: Caller, token: str, seen: _Seen
    ) -> web.StreamResponse:
        message = await self._message(match, request)
        streams.resume(message, request.headers.get("Last-Event-ID", ""))
        if request.method == "HEAD":
            return web.Response(headers={**seen.headers, "Content-Type": "text/event-stream"})
        if not self._streams.take():
            metrics.REFUSED.labels("streams").inc()
            raise problems.overloaded(f"{self._limits.streams} streams are open, which is the most; close some")
        messages: AsyncIterator[Message] = match.route.call(message, caller)
        around = streams.Surroundings(
            headers=seen.headers,
            closing=self.closing,
            still_allowed=lambda: self._caller(token),
            explain=lambda error: self.explain(error, request.path[:500], seen),
            heartbeat_s=self._limits.heartbeat_s,
        )
        try:
            with metrics.STREAMS.track_inprogress():
                return await streams.respond(request, messages, around)
        finally:
            self._streams.give_back()

    async def _page(self, path: str, request: web.BaseRequest, seen: _Seen) -> web.Response:
        """What is served beside the methods; open to everyone who reaches the port."""
        seen.method = path
        if request.method not in ("GET", "HEAD"):
            raise problems.method_not_allowed(request.method, ["GET", "HEAD"])
        if path == "/healthz":
            return await _encoded(b'{"status": "ok"}', "application/json", request, seen.headers)
        if path == "/readyz":
            missing = self._readiness()
            if missing:
                raise LocciError(Code.UNAVAILABLE, "NOT_READY", f"the control plane is not ready: {missing}")
            return await _encoded(b'{"status": "ready"}', "application/json", request, seen.headers)
        if path == "/metrics":
            exposition = prometheus_client.generate_latest()
            return await _encoded(exposition, prometheus_client.CONTENT_TYPE_LATEST, request, seen.headers)
        return await _encoded(self._openapi(), "application/json", request, seen.headers)


_PAGES: Final = ("/healthz", "/readyz", "/metrics", "/openapi.json")


async def read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    """The whole body. Raises 408, 413, 415 or 417, and INVALID_ARGUMENT when it is cut off or badly chunked."""
    if not request.body_exists:
        return b""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise problems.unsupported_media_type("bodies are taken without Content-Encoding only")
    if (request.content_length or 0) > limits.body_bytes:
        raise problems.body_too_large(limits.body_bytes)
    await _continue(request)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise problems.body_too_large(limits.body_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise problems.body_too_slow(limits.body_s) from None
    except (RequestPayloadError, HttpProcessingError, ConnectionError, ValueError):
        raise invalid("", "the body is cut off or badly chunked", "MALFORMED_REQUEST") from None
    return b"".join(chunks)


async def _continue(request: web.BaseRequest) -> None:
    """Answers `Expect: 100-continue` (RFC 9110, section 10.1.1)."""
    expected = request.headers.get("Expect", "")
    if not expected:
        return
    if expected.lower() != "100-continue":
        status = HTTPStatus.EXPECTATION_FAILED
        message = "only 100-continue can be expected"
        raise problems.HttpError(status, Code.INVALID_ARGUMENT, "EXPECTATION_FAILED", message)
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _check_accept(request: web.BaseRequest, kind: str) -> None:
    """Raises 406 when the client says that it takes something, and it is not what comes (RFC 9110, section 12.5.1)."""
    given = ",".join(request.headers.getall("Accept", ()))
    if not given:
        return
    family = f"{kind.partition('/')[0]}/*"
    for part in given.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        refused = any(re.fullmatch(r"q=0(\.0{0,3})?", parameter) for parameter in parameters)
        if name in (kind, family, "*/*") and not refused:
            return
    raise problems.not_acceptable(kind)


def _check_media_type(request: web.BaseRequest) -> None:
    kind = request.content_type
    if "Content-Type" not in request.headers or not (kind == "application/json" or kind.endswith("+json")):
        shown = request.headers.get("Content-Type", "none")[:80]
        raise problems.unsupported_media_type(f"the body must be application/json, not {shown}")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise problems.unsupported_media_type("the body must be in UTF-8")


def _query(request: web.BaseRequest) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            request.rel_url.raw_query_string,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=binding.PARAMETERS_MAX,
        )
    except ValueError as error:
        raise invalid("", f"the query cannot be read: {str(error)[:100]}", "MALFORMED_REQUEST") from None


def _bearer_token(request: web.BaseRequest) -> str:
    found = _BEARER.fullmatch(request.headers.get("Authorization", "").strip())
    return found[1] if found else ""


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip (RFC 9110, section 12.5.3)."""
    found = _GZIP.search(accept_encoding)
    return found is not None and float(found["q"] or 1) > 0


async def _encoded(body: bytes, content_type: str, request: web.BaseRequest, headers: dict[str, Any]) -> web.Response:
    """A 200 with `body`, compressed when that pays and the client takes it."""
    headers = {**headers, "Content-Type": content_type, "Vary": "Accept-Encoding"}
    if len(body) >= _GZIP_BYTES_MIN and accepts_gzip(request.headers.get("Accept-Encoding", "")):
        headers["Content-Encoding"] = "gzip"
        if len(body) > _GZIP_BYTES_INLINE:
            body = await asyncio.to_thread(gzip.compress, body, 5, mtime=0)
        else:
            body = gzip.compress(body, 5, mtime=0)
    return web.Response(body=body, headers=headers)
