"""Header fields between hops (RFC 9110 section 7.6): what is passed on, what is dropped, what is set anew.

A header list holds (name as received, value) pairs; `fields` maps lower-case names to their values, joined
by ", " where a name came more than once (RFC 9110 section 5.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

HeaderList = list[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# What a sender may not have removed by naming it in Connection (RFC 9110 section 7.6.1: options are for hops).
NEVER_NOMINATED: Final = frozenset(
    (b"host", b"content-length", b"authorization", b"cookie", b"cache-control", b"x-forwarded-for", b"cdn-loop")
)
# What the edge sets itself; spellings with an underscore are the same variable for CGI and are dropped too.
SET_BY_EDGE: Final = frozenset(
    (
        b"host",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-real-ip",
        b"x-request-id",
        b"via",
        b"cdn-loop",
        b"locci-hop",
        b"locci-purge",
        b"expect",
        b"content-length",
        b"transfer-encoding",
    )
)
PER_CLIENT: Final = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-request-id", b"via", b"cdn-loop", b"locci-hop")
)
"""Fields that origins get from the edge and that differ from request to request."""
ONLY_FROM_PEERS: Final = (b"locci-hop", b"locci-purge")
"""What edges say to each other; from anybody else it means nothing."""
TRUSTED_FROM_PEERS: Final = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"))
_DROP_FROM_CLIENTS: Final = HOP_BY_HOP | SET_BY_EDGE
_DROP_FROM_PEERS: Final = _DROP_FROM_CLIENTS - TRUSTED_FROM_PEERS
LOOP_ID: Final = b"locci"
LOOPS_MAX: Final = 3
_TRACE: Final = frozenset((b"traceparent", b"tracestate"))
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16
_ID_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@")


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields by lower-case name, repeated ones joined in their order."""
    fields: Fields = {}
    for name, value in headers:
        key = name.lower()
        if key in fields:
            fields[key] += b", " + value.strip(b" \t")
        else:
            fields[key] = value.strip(b" \t")
    return fields


def list_members(value: bytes) -> list[bytes]:
    """The lower-case members of a comma-separated list of tokens."""
    return [part for member in value.split(b",") if (part := member.strip(b" \t").lower())]


def end_to_end(
    headers: Iterable[tuple[bytes, bytes]], fields: Mapping[bytes, bytes], drop: frozenset[bytes] = HOP_BY_HOP
) -> HeaderList:
    """The fields that may be passed on (RFC 9110 section 7.6.1): neither in `drop` nor nominated by Connection."""
    nominated = fields.get(b"connection")
    if nominated is not None and nominated not in (b"keep-alive", b"close"):
        drop = drop | (frozenset(list_members(nominated)) - NEVER_NOMINATED)
    return [pair for pair in headers if pair[0].lower() not in drop]


def loops(fields: Mapping[bytes, bytes]) -> int:
    """How often the request has passed an edge of ours already (RFC 8586 section 2)."""
    value = fields.get(b"cdn-loop", b"")
    return sum(1 for member in list_members(value) if member.split(b";")[0].strip() == LOOP_ID)


def acceptable_request_id(value: bytes | None) -> bool:
    """Whether a client's request id is short and harmless enough to be kept."""
    return value is not None and 8 <= len(value) <= 128 and _ID_BYTES.issuperset(value)


def acceptable_traceparent(value: bytes | None) -> bool:
    """Whether a trace context is one (W3C Trace Context, section 3.2.2.3 and 3.2.2.4)."""
    match = _TRACEPARENT.fullmatch(value) if value is not None else None
    return match is not None and match[1] != b"ff" and bool(match[2].strip(b"0")) and bool(match[3].strip(b"0"))


def traceparent(randomness: int) -> bytes:
    """A new trace, not sampled by us, from 192 random bits (W3C Trace Context, section 3.2)."""
    digits = randomness.to_bytes(24, "big").hex()
    trace, parent = digits[:32], digits[32:]
    if trace == _NO_TRACE or parent == _NO_PARENT:
        trace, parent = trace[:-1] + "1", parent[:-1] + "1"
    return b"00-%b-%b-00" % (trace.encode(), parent.encode())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from."""

    client: bytes
    scheme: bytes
    host: bytes
    request_id: bytes
    trusted: bool
    """It came from another edge, whose word about the client is kept."""
    trace: bytes = b""
    """The trace that begins here, unless the client has one."""
    shielded: bool = False
    """It comes from an edge below: this one is asked as its shield, and may ask others in turn."""


def _node(client: bytes) -> bytes:
    """The client in the form that Forwarded wants (RFC 7239 section 6)."""
    return b'"[' + client + b']"' if b":" in client else client


def to_upstream(headers: HeaderList, fields: Mapping[bytes, bytes], origin: Origin, minor: int) -> HeaderList:
    """The request's fields for the next hop, but for framing, conditions and Locci-Hop.

    X-Forwarded-* and Forwarded are overwritten, since a client could say anything in them.
    """
    result: HeaderList = [(b"Host", origin.host)]
    drop = _DROP_FROM_PEERS if origin.trusted else _DROP_FROM_CLIENTS
    if not acceptable_traceparent(fields.get(b"traceparent")):
        drop = drop | _TRACE  # W3C Trace Context, section 3.2.2.5: start anew, and without the state of the broken one
        if origin.trace:
            result.append((b"traceparent", origin.trace))
    for pair in end_to_end(headers, fields, drop):
        if b"_" in pair[0] and pair[0].lower().replace(b"_", b"-") in SET_BY_EDGE:
            continue
        result.append(pair)
    if not (origin.trusted and b"x-forwarded-for" in fields):
        result.append((b"X-Forwarded-For", origin.client))
        result.append((b"X-Forwarded-Proto", origin.scheme))
        result.append((b"X-Forwarded-Host", origin.host))
        parts = (b"for=", _node(origin.client), b';host="', origin.host, b'";proto=', origin.scheme)
        result.append((b"Forwarded", b"".join(parts)))
    result.append((b"X-Request-Id", origin.request_id))
    via = b"2.0 locci" if minor == 2 else b"1.%d locci" % minor
    result.append((b"Via", fields[b"via"] + b", " + via if b"via" in fields else via))
    loop = fields.get(b"cdn-loop")
    result.append((b"CDN-Loop", loop + b", " + LOOP_ID if loop else LOOP_ID))
    return result


def encode_head(start_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A message's head with its empty line (RFC 9112 section 2.1)."""
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    return b"%b\r\n%b\r\n" % (start_line, b"".join(lines))
