"""The protocol that Redis speaks (RESP2, redis.io/docs/reference/protocol-spec): commands out, replies in."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any, Final

import hiredis

REPLY_BYTES_MAX: Final = 4 * 1024 * 1024
"""What a server may send before a reply is whole; far above what is asked for."""
_MORE: Final = object()
SLOTS: Final = 16384
"""Of a cluster."""


class NotRedis(Exception):  # noqa: N818 - it is what the other side is
    """The bytes are no replies; nothing that follows on the connection can be believed."""


def command(*parts: bytes) -> bytes:
    """A command with its arguments, as an array of bulk strings."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


def get(name: bytes) -> bytes:
    """GET, the one command that has to be quick."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


def put(name: bytes, value: bytes, keep_ms: int) -> bytes:
    """SET with a time after which the value goes."""
    return command(b"SET", name, value, b"PX", b"%d" % keep_ms)


def key_slot(name: bytes) -> int:
    """The slot of a key in a cluster: CRC-16/XMODEM of it, or of what its first braces enclose, modulo 16384."""
    _, opened, rest = name.partition(b"{")
    inner, closed, _ = rest.partition(b"}")
    return binascii.crc_hqx(inner if opened and closed and inner else name, 0) % SLOTS


class Replies:
    """Cuts what a server sends into replies: bytes, an int, None, a list, or a `hiredis.ReplyError`."""

    def __init__(self, bytes_max: int = REPLY_BYTES_MAX):
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._bytes_max = bytes_max
        self._open_bytes = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        """The replies that are whole now. Raises NotRedis."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                self._open_bytes = 0
                yield reply
        except hiredis.HiredisError as error:
            raise NotRedis(f"it does not speak RESP: {error}") from error
        self._open_bytes += len(data)
        if self._open_bytes > self._bytes_max:
            raise NotRedis(f"a reply of more than {self._bytes_max} bytes")
