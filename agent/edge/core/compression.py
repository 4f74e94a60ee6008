"""Bodies that are stored compressed, once for each set of codings that clients accept (RFC 9110 section 8.4)."""

from __future__ import annotations

import gzip
from typing import Final

import brotli
import zstandard

from agent.edge.core.freshness import control_of, directives
from agent.edge.core.headers import Fields, HeaderList, list_members

CODINGS: Final = (b"zstd", b"br", b"gzip")
"""By preference, where a client likes several as well."""
BYTES_MIN: Final = 512
"""Below this a body hardly gets smaller."""
_ZSTD_LEVEL: Final = 6
_BROTLI_QUALITY: Final = 5
_GZIP_LEVEL: Final = 6
_TYPES: Final = frozenset(
    (
        b"application/javascript",
        b"application/json",
        b"application/manifest+json",
        b"application/wasm",
        b"application/xml",
        b"image/svg+xml",
    )
)


def eligible(status: int, fields: Fields, size: int) -> bool:
    """Whether a stored response gets compressed: text of some size, as it is, that may be transformed (section 7.7)."""
    if status != 200 or size < BYTES_MIN or b"content-encoding" in fields or b"content-range" in fields:
        return False
    if "no-transform" in control_of(fields)[0] or "no-transform" in directives(fields.get(b"cache-control")):
        return False
    media_type = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    return media_type.startswith(b"text/") or media_type in _TYPES or media_type.endswith((b"+json", b"+xml"))


def choose(accept_encoding: bytes | None) -> bytes:
    """The coding that a client likes best of those that are made here; empty for none (section 12.5.3)."""
    weights: dict[bytes, float] = {}
    for member in list_members(accept_encoding or b""):
        coding, _, parameter = member.partition(b";")
        weights[coding.strip()] = _weight(parameter)
    others = weights.get(b"*", 0.0)
    best = max(CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    # A client that says nothing of identity takes it when nothing else is there.
    return best if weight > 0 and weight >= weights.get(b"identity", 0.0) else b""


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return max(0.0, min(1.0, float(value)))
    except ValueError:
        return 0.0


def compressed(body: bytes, coding: bytes) -> bytes:
    """The body in a coding of CODINGS."""
    match coding:
        case b"zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
        case b"br":
            return bytes(brotli.compress(body, quality=_BROTLI_QUALITY))
        case _:
            return gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)


def labelled(headers: HeaderList, coding: bytes) -> HeaderList:
    """The fields of a response that is stored in a coding, or as it came beside others that are (empty).

    Vary names Accept-Encoding; the tag of a body that was coded here is weak, as its bytes are others (section 8.8.1).
    """
    result: HeaderList = []
    varies = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"etag" and coding and not value.startswith(b"W/"):
            result.append((name, b"W/" + value))
            continue
        if lower == b"vary":
            varies = varies or b"accept-encoding" in list_members(value)
        if lower == b"content-encoding" and coding:
            continue
        result.append((name, value))
    if not varies:
        result.append((b"Vary", b"Accept-Encoding"))
    return [*result, (b"Content-Encoding", coding)] if coding else result
