"""A client that sends bytes and takes responses apart strictly."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Returns when the condition holds; fails when it does not within the time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Response:
    """A response; `whole` is False when its end was cut off."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def cache(self) -> str:
        return self.headers.get("cache-status", "")


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, target: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Response:
        """Sends a request to hello.test and reads the response."""
        values = {"Host": "hello.test"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            values["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in values.items())
        await self.send(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b""))
        return await self.read(method == "HEAD")

    async def read(self, head_only: bool = False, timeout_s: float = 30.0) -> Response:
        """The next final response."""
        async with asyncio.timeout(timeout_s):
            self.early: list[Response] = []
            while (response := await self._read(head_only)).status < 200 and response.status != 101:
                self.early.append(response)
            return response

    async def _read(self, head_only: bool) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        status = int(first.split(" ")[1])
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        if head_only or status < 200 or status in (204, 304):
            return Response(status, headers, b"")
        try:
            return Response(status, headers, await self._body(headers))
        except asyncio.IncompleteReadError as error:
            return Response(status, headers, error.partial, whole=False)
        except ConnectionError:
            return Response(status, headers, b"", whole=False)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return body
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    def reset(self) -> None:
        """Goes away without a word, as a process that was killed does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self, timeout_s: float = 5.0) -> bool:
        """Whether the edge closes the connection without another byte."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reader.read() == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


async def fetch(
    port: int, target: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
) -> Response:
    """One request on a connection of its own."""
    async with await Client.open(port) as client:
        return await client.get(target, method, body, **headers)
