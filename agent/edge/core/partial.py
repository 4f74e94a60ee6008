"""Parts of a response: what is stored of a body that was never fetched whole, and how parts are combined.

Sources: RFC 9111 sections 3.3 and 3.4; RFC 9110 sections 8.8.2.2, 13.1.5, 14.4 and 15.3.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.edge.core import http_date
from agent.edge.core.headers import Fields

STRETCHES_MAX: Final = 256
"""Above this, stretches that touch are joined; when there are still more, only the newest stays."""
STRONG_S: Final = 1
"""A date is a strong validator when it lies so long before the response's own (RFC 9110 section 8.8.2.2)."""
_PLACE: Final = re.compile(rb"(?i:bytes) ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies: first and last byte, and the length of the whole."""

    first: int
    last: int
    total: int

    @property
    def size(self) -> int:
        """Bytes of the part."""
        return self.last - self.first + 1

    def field(self) -> bytes:
        """The value of Content-Range."""
        return b"bytes %d-%d/%d" % (self.first, self.last, self.total)


def placed(status: int, fields: Fields) -> Place | None:
    """The place of a 206 that carries one part of a body of known length, else None (RFC 9110 section 14.4)."""
    match = _PLACE.fullmatch(fields.get(b"content-range", b"")) if status == 206 else None
    if match is None:
        return None
    place = Place(int(match[1]), int(match[2]), int(match[3]))
    return place if place.first <= place.last < place.total else None


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there of a body of `total` bytes: stretches by their first byte, in order, that never overlap."""

    total: int
    stretches: tuple[tuple[int, bytes], ...]

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return sum(len(data) for _, data in self.stretches)

    def take(self, first: int, last: int) -> bytes | None:
        """The bytes from first to last, or None when one of them is not there."""
        found: list[bytes] = []
        at = first
        for start, data in self.stretches:
            if at > last or start > at:
                break
            if (end := start + len(data)) > at:
                found.append(data[at - start : last + 1 - start])
                at = end
        return b"".join(found) if at > last else None

    def gaps(self) -> list[tuple[int, int]]:
        """First and last bytes of what is not there."""
        found, at = [], 0
        for start, data in self.stretches:
            if start > at:
                found.append((at, start - 1))
            at = start + len(data)
        return [*found, (at, self.total - 1)] if at < self.total else found

    def joined(self, first: int, data: bytes) -> Parts:
        """With another part of the same body; of what is there already nothing is replaced."""
        added = list(self.stretches)
        for start, end in Parts(first + len(data), self.stretches).gaps():
            low, high = max(start, first), min(end, first + len(data) - 1)
            if low <= high:
                added.append((low, data[low - first : high + 1 - first]))
        added.sort()
        stretches = tuple(added) if len(added) <= STRETCHES_MAX else _joined(added)
        return Parts(self.total, stretches if len(stretches) <= STRETCHES_MAX else ((first, data),))


def _joined(stretches: list[tuple[int, bytes]]) -> tuple[tuple[int, bytes], ...]:
    """The same bytes in as few stretches as can be."""
    runs: list[tuple[int, list[bytes], int]] = []
    for start, data in stretches:
        if runs and runs[-1][2] == start:
            runs[-1][1].append(data)
            runs[-1] = (runs[-1][0], runs[-1][1], start + len(data))
        else:
            runs.append((start, [data], start + len(data)))
    return tuple((start, b"".join(data)) for start, data, _ in runs)


def strong_validator(fields: Fields, response_time: float) -> bytes:
    """What proves that two parts are of the very same body; empty for nothing (RFC 9110 section 8.8.2.2)."""
    tag = fields.get(b"etag", b"")
    if tag:
        return tag if tag.startswith(b'"') else b""
    modified = fields.get(b"last-modified", b"")
    changed = http_date.parse(modified, response_time)
    made = http_date.parse(fields.get(b"date", b""), response_time)
    return modified if changed is not None and made is not None and made - changed >= STRONG_S else b""
