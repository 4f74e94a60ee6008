"""Trailer fields (RFC 9110, section 6.5): passed on to clients that want them, never taken for header fields."""

from __future__ import annotations

import re
from typing import Final

from agent.edge.core.headers import HOP_BY_HOP, SET_BY_EDGE, Fields, HeaderList, list_members

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

_NAME: Final = re.compile(rb"[!#$%&'*+.^`|~0-9a-z-]+")
"""Without an underscore, which some take for a hyphen."""
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_CONTROLS: Final = SET_BY_EDGE | {
    b"traceparent",
    b"tracestate",
    b"priority",
    b"origin",
    b"referer",
    b"accept-encoding",
    b"content-disposition",
    b"x-http-method-override",
    b"x-http-method",
    b"x-method-override",
    b"x-original-url",
    b"x-original-host",
    b"x-rewrite-url",
    b"x-client-ip",
    b"x-host",
    b"client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
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


def announced_to_app(fields: Fields) -> bytes:
    """The Trailer field of a request as an app gets it; empty when nothing is passed on."""
    said = fields.get(b"trailer")
    return b"" if said is None else announced(b", ".join(name for name in list_members(said) if _harmless(name)))


def of_request(trailers: HeaderList, fields: Fields) -> HeaderList:
    """Those of a request that an app gets: what the client has announced, and could do no harm as a header field.

    Not all apps keep trailers apart, and what the edge says of a client must not be said by the client.
    """
    names = set(list_members(announced_to_app(fields)))
    return [pair for pair in passed_on(trailers) if pair[0].lower() in names and _VALUE.fullmatch(pair[1])]


def _harmless(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _CONTROLS
