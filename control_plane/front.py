"""The listeners of a control plane that does not lead: what comes in goes on to the one that does, byte by byte.

TLS stays whole from the caller to the leader: who the caller is, a node's certificate included, is judged there alone.
While nobody leads, callers are answered here, with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import structlog
from aiohttp import web

from control_plane.http import problems
from control_plane.http.listener import split_address
from fleet.errors import Code, LocciError, failed_precondition
from fleet.rpc.channel import SERVER_OPTIONS
from fleet.rpc.errors import abort

log = structlog.get_logger()

CONNECTIONS_MAX: Final = 16_384
CONNECT_S: Final = 2.0
PIECE_BYTES: Final = 65_536
RETRY_S: Final = 1.0

Address = tuple[str, int]


class Front:
    """Listens for others at some addresses. `refusing` is where callers go while there is no leader, by port's name."""

    def __init__(self, listen: Mapping[str, str], refusing: Mapping[str, int]):
        """`listen` has `host:port` by the port's name."""
        self._listen = listen
        self._refusing = refusing
        self._leader: Mapping[str, Address] = {}
        self._servers: list[asyncio.Server] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begins to listen. Raises FAILED_PRECONDITION when an address cannot be had."""
        for name, listen in self._listen.items():
            host, port = split_address(listen)
            try:
                server = await asyncio.start_server(
                    functools.partial(self._taken, name),
                    host,
                    port,
                    limit=PIECE_BYTES,
                    backlog=512,
                    family=socket.AF_UNSPEC,
                )
            except OSError as error:
                await self.close()
                message = f"cannot listen on {listen}: {error.strerror or error}; change the setting {name}_listen"
                raise failed_precondition("ADDRESS_UNUSABLE", message) from error
            self._servers.append(server)

    def follow(self, leader: Mapping[str, Address]) -> None:
        """Sends callers there from now on; whoever was sent elsewhere is cut off, and comes back."""
        self._leader = leader
        self._cut()

    def _cut(self) -> None:
        for pipe in self._pipes:
            pipe.cancel()

    async def close(self) -> None:
        """Stops to listen and cuts off whoever is connected."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        pipes = list(self._pipes)
        self._cut()
        await asyncio.gather(*pipes, return_exceptions=True)

    def _taken(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._pipes) >= CONNECTIONS_MAX or not self._servers:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._pipe(name, reader, writer))
        self._pipes.add(task)
        task.add_done_callback(self._pipes.discard)

    async def _pipe(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward: asyncio.StreamWriter | None = None
        try:
            answers, onward = await self._reach(name)
            await _both(((reader, onward), (answers, writer)))
        except (OSError, TimeoutError):
            return
        finally:
            for end in (writer, onward):
                if end is not None:
                    end.transport.abort()

    async def _reach(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the leader, or else to what refuses in its place."""
        leader = self._leader.get(name)
        if leader is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(*leader, limit=PIECE_BYTES)
            except (OSError, TimeoutError):
                log.debug("leader_not_reached", host=leader[0], port=leader[1])
        return await asyncio.open_connection("127.0.0.1", self._refusing[name], limit=PIECE_BYTES)


async def _both(ways: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Copies both ways until both ends have said all, or either breaks."""
    tasks = [asyncio.create_task(_copy(source, target)) for source, target in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(PIECE_BYTES):
        target.write(piece)
        await target.drain()
    with contextlib.suppress(OSError, RuntimeError):
        target.write_eof()


class Refusing:
    """What answers on loopback while nobody leads: 503 and UNAVAILABLE, with what is known of why."""

    def __init__(self, tls: ssl.SSLContext, key_and_chain: tuple[bytes, bytes], why: Callable[[], str]):
        self._tls = tls
        self._credentials = grpc.ssl_server_credentials([key_and_chain])
        self._why = why
        self._grpc = grpc.aio.server(options=SERVER_OPTIONS)
        self._http: asyncio.Server | None = None
        self._connections: web.Server | None = None

    async def open(self) -> dict[str, int]:
        """The port by its name: `http`, `grpc`, `node`."""
        self._grpc.add_generic_rpc_handlers((_NoLeader(self._error),))
        port = self._grpc.add_secure_port("127.0.0.1:0", self._credentials)
        await self._grpc.start()
        self._connections = web.Server(self._answer, access_log=None, keepalive_timeout=1.0)
        loop = asyncio.get_running_loop()
        self._http = await loop.create_server(self._connections, "127.0.0.1", 0, ssl=self._tls)
        return {"http": self._http.sockets[0].getsockname()[1], "grpc": port, "node": port}

    async def close(self) -> None:
        """Ends."""
        if self._http is not None and self._connections is not None:
            self._http.close()
            await self._connections.shutdown(0.2)
        await self._grpc.stop(0.2)

    def _error(self) -> LocciError:
        message = f"no control plane leads at the moment: {self._why()}; ask again in a few seconds"
        return LocciError(Code.UNAVAILABLE, "NO_LEADER", message)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/healthz":
            return web.Response(text="ok\n")
        request_id = uuid.uuid4().hex
        body = problems.encode(self._error(), request.path, request_id)
        headers = {"Content-Type": problems.CONTENT_TYPE, "Retry-After": f"{RETRY_S:g}", "X-Request-Id": request_id}
        return web.Response(status=503, body=body, headers=headers)


class _NoLeader(grpc.GenericRpcHandler):
    """Ends every call with the same error."""

    def __init__(self, error: Callable[[], LocciError]):
        self._error = error

    def service(self, _details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of any method."""

        async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await abort(context, self._error())

        return grpc.stream_stream_rpc_method_handler(refuse)
