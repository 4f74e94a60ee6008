"""The control plane over HTTPS and JSON."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from cli.context import Context
from cli.failure import UNREACHABLE, ApiFailure, Failure, unreachable
from cli.sse import EventParser, ServerEvent
from fleet.backoff import Backoff
from fleet.contract import error_of
from fleet.identity import SERVER_NAME

PAGE_SIZE: Final = 500
TIMEOUT_S: ContextVar[float] = ContextVar("TIMEOUT_S", default=40.0)
"""Time for one request, all tries together; set by `--timeout`."""
TRIES_MAX: Final = 4
_BACKOFF: Final = Backoff(base_s=0.2, cap_s=2.0)
_AGAIN: Final = frozenset({"NOT_READY", "OVERLOADED", "RATE_EXCEEDED", "TOO_MANY_AT_ONCE"})
"""The server has done nothing: the request may be sent again, whatever it is."""
_STREAM_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=5, sock_read=30)
"""The server says something every 10 s."""

Json = dict[str, Any]


def new_request_id() -> str:
    """Makes a change that is sent twice act once."""
    return str(uuid.uuid4())


class Client:
    """Calls methods of the API; every failure is a `Failure`."""

    def __init__(self, context: Context):
        self._context = context
        self.server = context.server
        self.ca_pem = context.ca_pem
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._context.token}", "User-Agent": "locci"}
        connector = aiohttp.TCPConnector(ssl=self._context.tls())
        self._session = aiohttp.ClientSession(
            headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S.get(), connect=5)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """The answer to a GET."""
        return await self.call("GET", path, params=params)

    async def call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Json | None = None
    ) -> Json:
        """The JSON answer to a request below `/v1/`. Raises ApiFailure or Failure.

        When the connection breaks, a request that reads, or that carries a `request_id` and so acts only once, is
        sent again; one that the server has turned away for being busy, too. All tries share the time limit.
        """
        harmless = method == "GET" or bool((params or {}).get("request_id") or (body or {}).get("request_id"))
        until = time.monotonic() + TIMEOUT_S.get()
        for attempt in range(TRIES_MAX):
            try:
                return await self._once(method, path, params, body)
            except Failure as failure:
                turned_away = isinstance(failure, ApiFailure) and failure.error.reason in _AGAIN
                broken = not isinstance(failure, ApiFailure) and failure.retriable and harmless
                wait_s = _BACKOFF.delay_s(attempt, random.random())
                if attempt + 1 == TRIES_MAX or not (turned_away or broken) or time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    async def _once(self, method: str, path: str, params: Mapping[str, Any] | None, body: Json | None) -> Json:
        assert self._session is not None
        url = f"{self.server}/v1/{path}"
        try:
            async with self._session.request(
                method, url, params=_query(params), json=body, server_hostname=SERVER_NAME
            ) as response:
                return await self._read(response, path)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def pages(
        self, path: str, key: str, params: Mapping[str, Any] | None = None, most: int | None = None
    ) -> list[Json]:
        """The items of a list, page by page; at most `most`."""
        items: list[Json] = []
        token = ""
        while True:
            size = PAGE_SIZE if most is None else min(PAGE_SIZE, most - len(items))
            page = await self.get(path, {**(params or {}), "page_size": size, "page_token": token or None})
            items.extend(page.get(key, []))
            token = page.get("next_page_token", "")
            if not token or (most is not None and len(items) >= most):
                return items if most is None else items[:most]

    async def stream(self, path: str, params: Mapping[str, Any], last_id: str) -> AsyncGenerator[ServerEvent, None]:
        """The events of one connection, until it ends or breaks. Raises ApiFailure or Failure."""
        assert self._session is not None
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        parser = EventParser()
        try:
            async with self._session.get(
                f"{self.server}/v1/{path}",
                params=_query(params),
                headers=headers,
                timeout=_STREAM_TIMEOUT,
                server_hostname=SERVER_NAME,
            ) as response:
                if response.status >= 400:
                    await self._read(response, path)
                async for chunk in response.content.iter_any():
                    for event in parser.feed(chunk):
                        yield event
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    async def _read(self, response: aiohttp.ClientResponse, path: str) -> Json:
        raw = await response.read()
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            hint = "is this the address of a control plane? `locci context show` says which is used"
            what = f"the server does not answer as a control plane (status {response.status})"
            raise Failure(what, where=self.server, hint=hint, exit_code=UNREACHABLE)
        if response.status >= 400:
            raise ApiFailure(error_of(response.status, answer), where=path)
        return answer

    def _unreachable(self, error: Exception) -> Failure:
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            hint = "the context is of another control plane, or someone is in between; log in anew to be sure"
            reason = "its certificate is not signed by the CA in the context"
            return unreachable(self.server, reason, hint)
        if isinstance(error, TimeoutError):
            return unreachable(self.server, "it did not answer in time")
        if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
            failure = unreachable(self.server, str(error) or type(error).__name__)
            failure.retriable = not isinstance(error, aiohttp.ClientConnectorError)
            if failure.retriable:
                return failure
        if isinstance(error, aiohttp.ClientConnectorError):
            return unreachable(self.server, error.os_error.strerror or str(error.os_error))
        return unreachable(self.server, str(error) or type(error).__name__)


def _query(params: Mapping[str, Any] | None) -> dict[str, str]:
    """Parameters as text; those that are None or empty are left out."""
    given = {name: value for name, value in (params or {}).items() if value not in (None, "", False)}
    return {name: "true" if value is True else str(value) for name, value in given.items()}
