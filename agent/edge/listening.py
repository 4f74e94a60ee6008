"""Sockets that listen: what an address is, and how several processes share one."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from fleet.errors import Code, LocciError, invalid

BACKLOG: Final = 4096


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `address:port`. Raises INVALID_ARGUMENT."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise invalid("listen", f"{text!r} is not address:port")
    return host.strip("[]"), int(port)


def bind(text: str) -> socket.socket:
    """A socket at an address that other processes may have too. Raises UNAVAILABLE or PERMISSION_DENIED."""
    host, port = parse_address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _cannot(text, error) from error
    sock.setblocking(False)
    return sock


def listen(sock: socket.socket, text: str) -> socket.socket:
    """The socket, listening. Raises UNAVAILABLE."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot(text, error) from error
    return sock


def _cannot(text: str, error: OSError) -> LocciError:
    code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.UNAVAILABLE
    return LocciError(code, "CANNOT_LISTEN", f"cannot listen on {text}: {error.strerror or error}")


def address_of(transport: asyncio.BaseTransport) -> bytes:
    """Where a connection comes from."""
    peername = transport.get_extra_info("peername")
    return peername[0].encode() if isinstance(peername, tuple) else b"unix"
