"""An HTTP/1.1 server that does exactly what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    raw_head: bytes
    body: bytes
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    trailers: list[str] = field(default_factory=list)

    async def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Sends a response with a length."""
        names = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\n{names}Content-Length: {len(body)}\r\n\r\n".encode()
        await self.send(head + (b"" if self.method == "HEAD" else body))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Handler = Callable[[Seen], Awaitable[None]]


async def hello(seen: Seen) -> None:
    await seen.answer(200, b"hello\n")


class Origin:
    """Listens on a loopback port; `handler` may be changed at any time."""

    def __init__(self, handler: Handler = hello):
        self.handler = handler
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> Origin:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuses connections from now on, and resets the open ones."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, ValueError):
            while True:
                seen = await self._read(reader, writer)
                self.seen.append(seen)
                await self.handler(seen)
        self._writers.discard(writer)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Seen:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body, trailers = b"", list[str]()
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            while line := (await reader.readuntil(b"\r\n"))[:-2]:
                trailers.append(line.decode("latin-1"))
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        return Seen(method, target, headers, head, body, writer, reader, trailers)
