"""A stored response as bytes, for a second tier that may hold anything: versioned, with a checksum over all of it.

Layout: magic of four bytes with the version in it, BLAKE2b-128 of the rest, length of the head (4 bytes, most
significant first), head as JSON, body.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any, Final

from agent.edge.core.entry import StoredResponse, Variants, restore
from agent.edge.core.freshness import Verdict

MAGIC: Final = b"LCC3"
MARKER_MAGIC: Final = b"LCV1"
STRIPED_MAGIC: Final = b"LCS1"
STRIPE_BYTES: Final = 256 * 1024
"""A value above this is divided, so that nobody waits for a large one on a connection that all share."""
_DIGEST: Final = 16
_MAX_MARKER: Final = 4096


def _sum(key: bytes, content: bytes) -> bytes:
    """The key is part of it: an entry that lies under another's key is garbage too."""
    return hashlib.blake2b(content, digest_size=_DIGEST, key=hashlib.blake2b(key, digest_size=32).digest()).digest()


def encode(key: bytes, entry: StoredResponse) -> bytes:
    """The entry in its stored form."""
    verdict = entry.verdict
    head = {
        "s": entry.status,
        "r": entry.reason.decode("latin-1"),
        "h": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in entry.headers],
        "v": [
            verdict.lifetime_s,
            int(verdict.validate_always),
            int(verdict.must_revalidate),
            verdict.stale_while_revalidate_s,
            verdict.stale_if_error_s,
        ],
        "t": entry.response_time,
        "a": entry.initial_age_s,
        "q": entry.sequence,
        "c": entry.coding.decode("latin-1"),
        "k": [name.decode("latin-1") for name in entry.keyed],
    }
    encoded = json.dumps(head, separators=(",", ":")).encode()
    content = struct.pack(">I", len(encoded)) + encoded + entry.body
    return MAGIC + _sum(key, content) + content


def encode_marker(key: bytes, variants: Variants) -> bytes:
    """Says that the key has variants."""
    content = b"\n".join((variants.nonce, *variants.names))
    return MARKER_MAGIC + _sum(key, content) + content


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
    return [*zip(striped.keys(key), parts, strict=True), (key, STRIPED_MAGIC + _sum(key, content) + content)]


def decode(key: bytes, data: bytes) -> StoredResponse | Variants | Striped | None:
    """An entry, a marker, what leads to stripes, or None for whatever is neither whole nor ours."""
    magic, digest, content = data[:4], data[4 : 4 + _DIGEST], data[4 + _DIGEST :]
    if magic not in (MAGIC, MARKER_MAGIC, STRIPED_MAGIC) or digest != _sum(key, content):
        return None
    if magic == STRIPED_MAGIC:
        nonce, _, count = content.partition(b"\n")
        return Striped(nonce, int(count)) if count.isdigit() and len(count) < 5 else None
    if magic == MARKER_MAGIC:
        nonce, *names = content[:_MAX_MARKER].split(b"\n")
        return Variants(tuple(names), nonce)
    try:
        (size,) = struct.unpack(">I", content[:4])
        return _entry(json.loads(content[4 : 4 + size]), content[4 + size :])
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _entry(head: dict[str, Any], body: bytes) -> StoredResponse:
    lifetime, always, strict, while_revalidate, if_error = head["v"]
    verdict = Verdict(True, "", int(lifetime), bool(always), bool(strict), int(while_revalidate), int(if_error))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["h"]]
    reason = head["r"].encode("latin-1")
    times = float(head["t"]), float(head["a"])
    keyed = tuple(name.encode("latin-1") for name in head["k"])
    return restore(
        StoredResponse(
            int(head["s"]),
            reason,
            headers,
            body,
            verdict,
            *times,
            keyed,
            sequence=int(head["q"]),
            coding=head["c"].encode(),
        )
    )
