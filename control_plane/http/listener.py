"""The HTTPS listener of the control plane: the JSON API, its documents, health and metrics."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import uuid
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from control_plane.core.quota import Quota, Quotas
from control_plane.http import metrics, openapi, problems, routes
from control_plane.http.dispatch import Api, Authenticate, Limits
from control_plane.services.registry import Service
from fleet.errors import Code, LocciError

CONNECTIONS_MAX: Final = 2048
"""More connections at once are closed."""
IDLE_S: Final = 30.0
"""A connection on which no whole request head arrives for so long is closed."""
HEADER_LINE_BYTES_MAX: Final = 8190
HEADERS_MAX: Final = 64
CLOSE_S: Final = 3.0

log = structlog.get_logger()


class _Connection(RequestHandler):
    """One connection; answers what is no HTTP with a problem document, and never with a traceback."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection, unless there are too many."""
        super().connection_made(transport)
        if self._manager is not None and len(self._manager.connections) > CONNECTIONS_MAX:
            metrics.REFUSED.labels("connections").inc()
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed, or to an error outside of every method."""
        if status >= 500:
            log.error("connection failed", exc_info=exc)
            error: LocciError = LocciError(Code.INTERNAL, "INTERNAL", "something went wrong in the control plane")
        elif isinstance(exc, LineTooLong) or "too many" in str(exc).lower():
            text = f"a header is longer than {HEADER_LINE_BYTES_MAX} bytes, or there are more than {HEADERS_MAX}"
            large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            error = problems.HttpError(large, Code.INVALID_ARGUMENT, "HEADERS_TOO_LARGE", text)
        else:
            bad = HTTPStatus.BAD_REQUEST
            error = problems.HttpError(
                bad, Code.INVALID_ARGUMENT, "MALFORMED_REQUEST", "this is not HTTP/1.1 as it is spoken here"
            )
        request_id = uuid.uuid4().hex
        metrics.REQUESTS.labels("none", str(problems.status_of(error))).observe(0)
        headers = {"Content-Type": problems.CONTENT_TYPE, "Server": "locci", "X-Request-Id": request_id}
        body = problems.encode(error, "/", request_id)
        response = web.Response(status=problems.status_of(error), body=body, headers=headers)
        response.force_close()
        return response


class _Connections(web.Server):
    """Makes connections."""

    def __init__(self, api: Api, **settings: Any):
        super().__init__(api.handle)
        self._settings = settings

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._settings)


class HttpListener:
    """A listener that runs until it is closed."""

    def __init__(self, server: asyncio.Server, connections: _Connections, api: Api):
        self._server = server
        self._connections = connections
        self._api = api
        self.port: int = server.sockets[0].getsockname()[1]
        """The TCP port; useful when it was asked to take any."""

    async def close(self) -> None:
        """Takes no new connections, ends streams, lets requests end for CLOSE_S seconds, then cuts them."""
        self._server.close()
        self._api.closing.set()
        self._connections.pre_shutdown()
        await self._connections.shutdown(CLOSE_S)


async def start_http(
    services: Sequence[Service],
    authenticate: Authenticate,
    listen: str,
    ssl_context: ssl.SSLContext,
    readiness: Callable[[], str],
    limits: Limits | None = None,
    quotas: Quotas | None = None,
) -> HttpListener:
    """Serves `services` at `listen` (`host:port`, port 0 for any) over TLS, each caller within `quotas`.

    `authenticate` gets a bearer token and returns whose it is, or raises UNAUTHENTICATED. `readiness` says
    what /readyz still waits for, nothing when it is 200. Raises FAILED_PRECONDITION when it cannot listen there.
    """
    document = functools.cache(lambda: openapi.encode(services))
    api = Api(routes.build(services), authenticate, readiness, document, limits or Limits(), quotas or Quotas(Quota()))
    connections = _Connections(
        api,
        keepalive_timeout=IDLE_S,
        max_line_size=HEADER_LINE_BYTES_MAX,
        max_field_size=HEADER_LINE_BYTES_MAX,
        max_headers=HEADERS_MAX,
        lingering_time=1.0,
        auto_decompress=False,
        access_log=None,
    )
    host, port = split_address(listen)
    try:
        server = await asyncio.get_running_loop().create_server(
            connections,
            host,
            port,
            ssl=ssl_context,
            ssl_handshake_timeout=10.0,
            ssl_shutdown_timeout=2.0,
            backlog=512,
            family=socket.AF_UNSPEC,
        )
    except OSError as error:
        message = f"cannot listen at {listen}: {error.strerror or error}; set http_listen to a free address"
        raise LocciError(Code.FAILED_PRECONDITION, "CANNOT_LISTEN", message) from error
    return HttpListener(server, connections, api)


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[host]:port`. Raises INVALID_ARGUMENT."""
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        message = f"http_listen: {listen!r} is not of the form host:port"
        raise LocciError(Code.INVALID_ARGUMENT, "INVALID_FIELD", message, field="http_listen")
    return host.removeprefix("[").removesuffix("]"), int(port)
