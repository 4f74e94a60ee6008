"""Header blocks without a dynamic table (RFC 7541): nothing to remember per connection, and each field encoded once.

A few bytes more on the wire than with a table buy most of the time that encoding takes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from agent.edge.core.hpack_tables import STATIC_TABLE

_SENSITIVE: Final = frozenset((b"set-cookie", b"authorization"))
_NEVER_AGAIN: Final = frozenset((b"X-Request-Id",))
REMEMBERED_BYTES_MAX: Final = 128
SIZE_UPDATE_TO_0: Final = b"\x20"
"""Stands in front of the first block: the table is not used (section 6.3)."""


def integer(value: int, prefix_bits: int, flags: int) -> bytes:
    """An integer behind the flags of its first byte (section 5.1)."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((flags | value,))
    parts = bytearray((flags | most,))
    value -= most
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _string(value: bytes) -> bytes:
    return integer(len(value), 7, 0) + value


_STATIC_PAIRS: Final = {pair: number for number, pair in enumerate(STATIC_TABLE, 1)}
_STATIC_NAMES: Final = {name: number for (name, _), number in reversed(_STATIC_PAIRS.items())}


def field(name: bytes, value: bytes) -> bytes:
    """One field: from the static table, or as a literal without indexing (section 6.2.2)."""
    name = name.lower()
    number = _STATIC_PAIRS.get((name, value))
    if number is not None:
        return integer(number, 7, 0x80)
    flags = 0x10 if name in _SENSITIVE else 0x00
    number = _STATIC_NAMES.get(name)
    start = bytes((flags,)) + _string(name) if number is None else integer(number, 4, flags)
    return start + _string(value)


_remembered = functools.lru_cache(4096)(field)


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of these fields; names may have capitals."""
    return b"".join(
        field(name, value) if len(value) > REMEMBERED_BYTES_MAX or name in _NEVER_AGAIN else _remembered(name, value)
        for name, value in headers
    )


def begun(name: bytes) -> bytes:
    """A field that is not indexed, of a name that the static table has not, up to the length of its value."""
    return b"\0" + _string(name)
