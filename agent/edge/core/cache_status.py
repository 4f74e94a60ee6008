"""The Cache-Status field (RFC 9211)."""

from __future__ import annotations

import enum
import functools
from typing import Final

NAME: Final = b"Cache-Status"


class Forward(enum.Enum):
    """Why a request went on towards the origin (section 2.2)."""

    BYPASS = b"bypass"
    METHOD = b"method"
    URI_MISS = b"uri-miss"
    VARY_MISS = b"vary-miss"
    MISS = b"miss"
    REQUEST = b"request"
    STALE = b"stale"
    PARTIAL = b"partial"


def hit(ttl_s: int) -> bytes:
    """Served from the cache with so many seconds of freshness left; negative when stale (section 2.4)."""
    return b"locci; hit; ttl=%d" % ttl_s


def hit_with(ttl_s: int, detail: str) -> bytes:
    """As `hit`, with a detail, a token (section 2.8)."""
    return b"%b; detail=%b" % (hit(ttl_s), detail.encode())


@functools.lru_cache(1024)
def forwarded(
    why: Forward,
    *,
    status: int = 0,
    stored: bool = False,
    collapsed: bool = False,
    ttl_s: int | None = None,
    detail: str = "",
) -> bytes:
    """Went on towards the origin. `status` is given when it differs from the response's (section 2.3)."""
    parts = [b"locci; fwd=" + why.value]
    if status:
        parts.append(b"fwd-status=%d" % status)
    if stored:
        parts.append(b"stored")
    if collapsed:
        parts.append(b"collapsed")
    if ttl_s is not None:  # section 2.4
        parts.append(b"ttl=%d" % ttl_s)
    if detail:
        parts.append(b"detail=" + token(detail))
    return b"; ".join(parts)


def token(detail: str) -> bytes:
    """A detail as a structured-field token: what does not fit becomes a hyphen (RFC 8941 section 3.3.4)."""
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.*") else "-" for c in detail)
    return (clean if clean[:1].isalpha() or clean[:1] == "*" else "x" + clean).encode()


def appended(before: bytes | None, member: bytes) -> bytes:
    """The field with our member last: the cache nearest to the client comes last (section 2)."""
    return before + b", " + member if before else member
