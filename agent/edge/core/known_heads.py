"""Requests by what they are made of: one that comes again is not parsed again. What that takes is bounded in bytes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from agent.edge.core.request_head import RequestHead

BYTES_MAX: Final = 16 * 2**20
"""Of all that is kept, by `cost_bytes`."""
_HEAD_BYTES: Final = 800
_FIELD_BYTES: Final = 180
_COPIES: Final = 3
Heads = dict[Hashable, tuple[RequestHead, bytes]]


def cost_bytes(size: int, fields: int) -> int:
    """What a request of `size` bytes with so many fields takes as objects, measured: somewhat more than it does."""
    return _HEAD_BYTES + _COPIES * size + _FIELD_BYTES * fields


class KnownHeads:
    """Requests without a body, by kind of connection: on another the same bytes mean something else."""

    __slots__ = ("_bytes_max", "_kinds", "used_bytes")

    def __init__(self, bytes_max: int = BYTES_MAX):
        self._bytes_max = bytes_max
        self._kinds: dict[bytes, Heads] = {}
        self.used_bytes = 0

    def of(self, kind: bytes) -> Heads:
        """To look up in; it stays the same object."""
        return self._kinds.setdefault(kind, {})

    def remember(self, kind: bytes, raw: Hashable, size: int, head: RequestHead, key: bytes) -> None:
        """Keeps a request of `size` bytes and its cache key. When there is no room for it, all begins anew: what is
        asked for often is soon there again, and nothing has to be noted when it is."""
        heads = self.of(kind)
        if raw in heads:
            return
        cost = cost_bytes(size, len(head.headers))
        if self.used_bytes + cost > self._bytes_max:
            self.clear()
        self.used_bytes += cost
        heads[raw] = (head, key)

    def clear(self) -> None:
        """Forgets all of them; readers hold these very dicts."""
        for heads in self._kinds.values():
            heads.clear()
        self.used_bytes = 0
