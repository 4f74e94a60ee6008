"""A stored response as bytes, for a second tier that may hold anything: versioned, with a checksum over all of it.

Layout: magic of four bytes with the version in it, BLAKE2b-128 of the rest, numbers, the sizes of what follows (all
most significant byte first): reason, coding, names that it varies on by rule, names and values of its fields; body.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import struct
from dataclasses import dataclass
from typing import Final

from agent.edge.core.entry import StoredResponse, Variants, restore
from agent.edge.core.freshness import Verdict

MAGIC: Final = b"LCC4"
MARKER_MAGIC: Final = b"LCV1"
STRIPED_MAGIC: Final = b"LCS1"
STRIPE_BYTES: Final = 256 * 1024
"""A value above this is divided, so that nobody waits for a large one on a connection that all share."""
_DIGEST: Final = 16
_HEAD: Final = struct.Struct(">HBQQQQddHH")
"""Status, flags, lifetime, stale-while-revalidate, stale-if-error, sequence, time, age, how many names and fields."""
_MAX_MARKER: Final = 4096


def sum_of(key: bytes, content: bytes) -> bytes:
    """A checksum that the key is part of: an entry that lies under another's key is garbage too."""
    return hashlib.blake2b(content, digest_size=_DIGEST, key=hashlib.blake2b(key, digest_size=32).digest()).digest()


def encode(key: bytes, entry: StoredResponse) -> bytes:
    """The entry in its stored form."""
    verdict = entry.verdict
    pieces = [entry.reason, entry.coding, *entry.keyed]
    for name, value in entry.headers:
        pieces += (name, value)
    head = _HEAD.pack(
        entry.status,
        verdict.validate_always | verdict.must_revalidate << 1,
        verdict.lifetime_s,
        verdict.stale_while_revalidate_s,
        verdict.stale_if_error_s,
        entry.sequence,
        entry.response_time,
        entry.initial_age_s,
        len(entry.keyed),
        len(entry.headers),
    )
    content = b"".join((head, struct.pack(f">{len(pieces)}I", *map(len, pieces)), *pieces, entry.body))
    return MAGIC + sum_of(key, content) + content


def encode_marker(key: bytes, variants: Variants) -> bytes:
    """Says that the key has variants."""
    content = b"\n".join((variants.nonce, *variants.names))
    return MARKER_MAGIC + sum_of(key, content) + content


@dataclass(frozen=True, slots=True)
class Striped:
    """Stands for a value that lies in stripes. The nonce tells the stripes of two values apart."""

    nonce: bytes
    count: int

    def keys(self, key: bytes) -> list[bytes]:
        """Where the stripes are, in order."""
        return [b"\n".join((key, b"stripe", self.nonce, b"%d" % number)) for number in range(self.count)]


def divide(key: bytes, value: bytes, nonce: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values under which a value is stored; what lies under `key` itself comes last."""
    if len(value) <= STRIPE_BYTES:
        return [(key, value)]
    parts = [value[at : at + STRIPE_BYTES] for at in range(0, len(value), STRIPE_BYTES)]
    striped = Striped(nonce, len(parts))
    content = b"%b\n%d" % (nonce, striped.count)
    return [*zip(striped.keys(key), parts, strict=True), (key, STRIPED_MAGIC + sum_of(key, content) + content)]


def decode(key: bytes, data: bytes) -> StoredResponse | Variants | Striped | None:
    """An entry, a marker, what leads to stripes, or None for whatever is neither whole nor ours."""
    magic, digest, content = data[:4], data[4 : 4 + _DIGEST], data[4 + _DIGEST :]
    if magic not in (MAGIC, MARKER_MAGIC, STRIPED_MAGIC) or digest != sum_of(key, content):
        return None
    if magic == STRIPED_MAGIC:
        nonce, _, count = content.partition(b"\n")
        return Striped(nonce, int(count)) if count.isdigit() and len(count) < 5 else None
    if magic == MARKER_MAGIC:
        nonce, *names = content[:_MAX_MARKER].split(b"\n")
        return Variants(tuple(names), nonce)
    try:
        return _entry(content)
    except (struct.error, ValueError, OverflowError):
        return None


def _entry(content: bytes) -> StoredResponse | None:
    status, flags, lifetime, while_revalidate, if_error, sequence, time, age, keyed, fields = _HEAD.unpack_from(content)
    count = 2 + keyed + 2 * fields
    sizes = struct.unpack_from(f">{count}I", content, _HEAD.size)
    ends = tuple(itertools.accumulate(sizes, initial=_HEAD.size + 4 * count))
    if ends[-1] > len(content) or not math.isfinite(time) or not math.isfinite(age):
        return None
    pieces = [content[at:end] for at, end in itertools.pairwise(ends)]
    first = 2 + keyed
    return restore(
        StoredResponse(
            status,
            pieces[0],
            list(zip(pieces[first::2], pieces[first + 1 :: 2], strict=True)),
            content[ends[-1] :],
            verdict_of(lifetime, flags, while_revalidate, if_error),
            time,
            age,
            tuple(pieces[2:first]),
            sequence=sequence,
            coding=pieces[1],
        )
    )


@functools.lru_cache(1024)
def verdict_of(lifetime_s: int, flags: int, while_revalidate_s: int, if_error_s: int) -> Verdict:
    """The verdict of an entry; most share one of a few."""
    return Verdict(True, "", lifetime_s, bool(flags & 1), bool(flags & 2), while_revalidate_s, if_error_s)
