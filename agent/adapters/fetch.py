"""One request of a synthetic client, without redirects, without reuse of connections."""

from __future__ import annotations

import asyncio
from typing import Final

PORT: Final = 80
_HEAD_BYTES_MAX: Final = 16_384


async def fetch_status(address: str, hostname: str) -> int:
    """The status of GET / on a connection of its own. Raises OSError, EOFError or ValueError; it has no deadline."""
    reader, writer = await asyncio.open_connection(address, PORT, limit=_HEAD_BYTES_MAX)
    try:
        head = f"GET / HTTP/1.1\r\nHost: {hostname}\r\nUser-Agent: locci-drill\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        line = (await reader.readuntil(b"\r\n")).decode("latin-1")
        version, _, rest = line.partition(" ")
        status = rest[:3]
        if not (version.startswith("HTTP/1.") and status.isdecimal()):
            raise ValueError("the answer is not HTTP")
        return int(status)
    finally:
        writer.close()
