"""Trailer fields (RFC 9110, section 6.5): passed on to clients that want them, never taken for header fields."""

from __future__ import annotations

from typing import Final

from agent.edge.core.headers import HOP_BY_HOP, Fields, HeaderList, list_members

FIELDS_MAX: Final = 32
BYTES_MAX: Final = 8 * 1024
# Section 6.5.1: what frames the message, says where it goes or who may see it, or had to be known before the body.
_NEVER: Final = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"cache-control",
    b"cdn-cache-control",
    b"surrogate-control",
    b"expect",
    b"max-forwards",
    b"pragma",
    b"range",
    b"authorization",
    b"www-authenticate",
    b"cookie",
    b"set-cookie",
    b"age",
    b"date",
    b"expires",
    b"location",
    b"retry-after",
    b"vary",
    b"warning",
    b"strict-transport-security",
    b"via",
    b"cdn-loop",
    b"cache-status",
    b"x-request-id",
    b"forwarded",
}


def wanted(fields: Fields) -> bool:
    """Whether a client has said that it takes trailers (section 10.1.4)."""
    said = fields.get(b"te")
    return said is not None and any(member.partition(b";")[0].strip() == b"trailers" for member in list_members(said))


def passed_on(trailers: HeaderList) -> HeaderList:
    """Those that a client may get: none when they are too many or too large."""
    if len(trailers) > FIELDS_MAX or sum(len(name) + len(value) for name, value in trailers) > BYTES_MAX:
        return []
    return [
        pair
        for pair in trailers
        if pair[0].lower() not in _NEVER and not pair[0].lower().startswith((b"if-", b"locci-", b"x-forwarded-"))
    ]


def announced(value: bytes) -> bytes:
    """The Trailer field (section 6.6.2) of what is passed on; empty when that is nothing."""
    names = [name for name in list_members(value) if passed_on([(name, b"")])]
    return b", ".join(names[:FIELDS_MAX])
