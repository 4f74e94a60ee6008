"""Bytes over TLS, as clients send them that know no manners."""

from __future__ import annotations

import asyncio
import ssl


def careless() -> ssl.SSLContext:
    """Trusts anyone: what is tested is the other side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def raw(port: int, content: bytes, *, seconds: float = 10.0) -> bytes:
    """What the server answers to these bytes, until it closes."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=careless())
        try:
            writer.write(content)
            await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


def status(answer: bytes) -> int:
    """The status of an answer; 0 when there is none."""
    parts = answer.split(b" ", 2)
    return int(parts[1]) if answer.startswith(b"HTTP/1.") else 0


def request(method: str, path: str, headers: str = "", body: bytes = b"", token: str = "") -> bytes:
    """A request on a connection of its own."""
    credentials = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{credentials}{headers}\r\n"
    return head.encode("latin-1") + body
