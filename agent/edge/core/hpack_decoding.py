"""Header blocks of a client (RFC 7541).

A client that asks alike sends the same octets again, and as long as the dynamic table stays as it is they mean the same
fields: such a block is read once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from agent.edge.core.hpack_tables import STATIC_TABLE, Pair, huffman_steps

TABLE_BYTES_MAX: Final = 4096
"""Of the dynamic table; what a client may take for granted (RFC 9113, section 6.5.2)."""
ENTRY_OVERHEAD_BYTES: Final = 32
"""What an entry counts for beside its octets (section 4.1)."""
REMEMBERED_MAX: Final = 16
REMEMBERED_BYTES_MAX: Final = 1024
REMEMBERED_LIST_BYTES_MAX: Final = 4096
"""Blocks that a connection keeps: how many, of how many octets, of fields of which size."""
_STRING_REMEMBERED_BYTES_MAX: Final = 48
_INTEGER_OCTETS_MAX: Final = 5
_STATIC: Final[tuple[Pair | None, ...]] = (None, *STATIC_TABLE)
_NEXT, _MADE, _ENDS = huffman_steps()


class HpackError(Exception):
    """A block cannot be read; nothing after it can (section 2.3.3 and others)."""


class Block:
    """The fields of a block, in their order, and their `size`; `fields` is empty when they were `oversized`."""

    __slots__ = ("fields", "known", "oversized", "size")

    def __init__(self, fields: list[Pair], size: int, *, oversized: bool):
        self.fields = fields
        self.size = size
        self.oversized = oversized
        self.known: Any = None
        """What the reader of the block makes of it; it gets the same block when the same comes again."""


def integer(data: bytes, at: int, most: int) -> tuple[int, int]:
    """The integer whose prefix, of ones when full, is `most` (section 5.1), and where it ends.

    Raises HpackError when it is too large, IndexError when it is cut off.
    """
    value = data[at] & most
    at += 1
    if value < most:
        return value, at
    for step in range(_INTEGER_OCTETS_MAX):
        octet = data[at]
        at += 1
        value += (octet & 0x7F) << 7 * step
        if octet < 0x80:
            return value, at
    raise HpackError("an integer is too large")


def huffman(data: bytes) -> bytes:
    """The octets that are coded (section 5.2). Raises HpackError."""
    node, made = 0, []
    for octet in data:
        step = node << 8 | octet
        node = _NEXT[step]
        made.append(_MADE[step])
    if node not in _ENDS:
        raise HpackError("a string's padding is none")
    try:
        return b"".join(made)  # type: ignore[arg-type]
    except TypeError:
        raise HpackError("a string has the end of the string in it") from None


_huffman_before = lru_cache(4096)(huffman)


class Decoder:
    """Reads the blocks of one connection, all of them, in their order."""

    def __init__(self, list_bytes_max: int):
        """Fields of more than `list_bytes_max` (RFC 9113, section 6.5.2) are read but not kept."""
        self._list_bytes_max = list_bytes_max
        self._table: list[Pair] = []
        self._table_bytes = 0
        self._table_bytes_max = TABLE_BYTES_MAX
        self._changed = False
        self.remembered: dict[bytes, Block] = {}
        """Blocks by their octets, until the table changes."""

    def decode(self, data: bytes) -> Block:
        """The fields of a whole block. Raises HpackError."""
        known = self.remembered.get(data)
        if known is not None:
            return known
        self._changed = False
        try:
            block = self._read(data)
        except IndexError:
            raise HpackError("a block is cut off, or names what is in no table") from None
        if self._changed:
            self.remembered.clear()
        elif len(data) <= REMEMBERED_BYTES_MAX and block.size <= REMEMBERED_LIST_BYTES_MAX:
            if len(self.remembered) >= REMEMBERED_MAX:
                self.remembered.clear()
            self.remembered[data] = block
        return block

    def _read(self, data: bytes) -> Block:
        fields: list[Pair] = []
        at, end, size, most, began = 0, len(data), 0, self._list_bytes_max, False
        while at < end:
            octet = data[at]
            if octet & 0x80:  # section 6.1
                index, at = integer(data, at, 0x7F)
                pair = self._entry(index)
            elif octet & 0x40:  # section 6.2.1
                pair, at = self._literal(data, at, 0x3F)
                self._insert(pair)
            elif octet & 0x20:  # section 6.3
                if began:
                    raise HpackError("the table's size changes in the middle of a block")
                wanted, at = integer(data, at, 0x1F)
                self._resize(wanted)
                continue
            else:  # sections 6.2.2 and 6.2.3
                pair, at = self._literal(data, at, 0x0F)
            began = True
            size += len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD_BYTES
            if size <= most:
                fields.append(pair)
        return Block([] if size > most else fields, size, oversized=size > most)

    def _entry(self, index: int) -> Pair:
        pair = _STATIC[index] if index < len(_STATIC) else self._table[index - len(_STATIC)]
        if pair is None:
            raise HpackError("there is no field of index 0")
        return pair

    def _literal(self, data: bytes, at: int, most: int) -> tuple[Pair, int]:
        index, at = integer(data, at, most)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(data, at)
        value, at = _string(data, at)
        return (name, value), at

    def _insert(self, pair: Pair) -> None:
        """Section 4.4: one that is too large empties the table."""
        self._changed = True
        self._table.insert(0, pair)
        self._table_bytes += len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD_BYTES
        self._evict()

    def _resize(self, wanted: int) -> None:
        if wanted > TABLE_BYTES_MAX:
            raise HpackError(f"the table may not have {wanted} bytes")
        if wanted != self._table_bytes_max:
            self._changed = True
            self._table_bytes_max = wanted
            self._evict()

    def _evict(self) -> None:
        while self._table_bytes > self._table_bytes_max:
            name, value = self._table.pop()
            self._table_bytes -= len(name) + len(value) + ENTRY_OVERHEAD_BYTES


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    coded = data[at] & 0x80
    size, at = integer(data, at, 0x7F)
    end = at + size
    if end > len(data):
        raise HpackError("a string is cut off")
    text = data[at:end]
    if coded:
        text = _huffman_before(text) if size <= _STRING_REMEMBERED_BYTES_MAX else huffman(text)
    return text, end
