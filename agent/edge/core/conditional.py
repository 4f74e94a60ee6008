"""Requests with conditions and ranges, answered from a stored response (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import re
from typing import Final

from agent.edge.core import http_date
from agent.edge.core.entry import StoredResponse
from agent.edge.core.headers import Fields, HeaderList
from agent.edge.core.request_head import CONDITIONS

_RANGE: Final = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")
_TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# Of these a 304 carries what the 200 would have carried (RFC 9110 section 15.4.5).
_IN_304: Final = frozenset(
    (b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"last-modified")
)


def asks(fields: Fields) -> bool:
    """Whether the request has any condition or range."""
    return any(name in fields for name in CONDITIONS)


def for_origin_only(fields: Fields) -> bool:
    """If-Match and If-Unmodified-Since are for the origin (RFC 9111 section 4.3.2)."""
    return b"if-match" in fields or b"if-unmodified-since" in fields


def _opaque(tag: bytes) -> bytes:
    return tag.removeprefix(b"W/")


def not_modified(fields: Fields, entry: StoredResponse, now: float) -> bool:
    """Whether the client's copy is the stored one (RFC 9110 section 13.2.2, steps 3 and 4; RFC 9111 section 4.3.2)."""
    if entry.status != 200:
        return False
    wanted = fields.get(b"if-none-match")
    if wanted is not None:
        if wanted == b"*":
            return True
        return bool(entry.etag) and _opaque(entry.etag) in {_opaque(tag) for tag in _TAG.findall(wanted)}
    since = fields.get(b"if-modified-since")
    if since is None:
        return False
    limit = http_date.parse(since, now)
    changed = http_date.parse(entry.last_modified or entry.fields.get(b"date", b""), now)
    return limit is not None and changed is not None and changed <= limit


def headers_of_304(entry: StoredResponse) -> HeaderList:
    """The stored fields that a 304 carries."""
    return [pair for pair in entry.headers if pair[0].lower() in _IN_304]


def validators(entry: StoredResponse) -> HeaderList:
    """The conditions by which a stored response is validated (RFC 9111 section 4.3.1)."""
    found: HeaderList = []
    if entry.etag:
        found.append((b"If-None-Match", entry.etag))
    if entry.last_modified:
        found.append((b"If-Modified-Since", entry.last_modified))
    return found


def byte_range(fields: Fields, entry: StoredResponse) -> tuple[int, int] | bool:
    """First and last byte asked for; False when the range is ignored; True when it cannot be satisfied (416).

    Several ranges, other units and a failed If-Range are ignored (RFC 9110 sections 13.1.5 and 14.2).
    """
    value = fields.get(b"range")
    if value is None or entry.status != 200:
        return False
    match = _RANGE.fullmatch(value)
    if match is None or not (match[1] or match[2]) or not _if_range(fields, entry):
        return False
    size = len(entry.body)
    if not match[1]:
        suffix = int(match[2])
        return True if suffix == 0 or size == 0 else (max(0, size - suffix), size - 1)
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return False
    if first >= size:
        return True
    return first, min(size - 1, int(match[2])) if match[2] else size - 1


def _if_range(fields: Fields, entry: StoredResponse) -> bool:
    """Strong comparison with the tag, or the very date that was sent (RFC 9110 section 13.1.5)."""
    value = fields.get(b"if-range")
    if value is None:
        return True
    if value.startswith((b'"', b"W/")):
        return value == entry.etag and not value.startswith(b"W/")
    return bool(entry.last_modified) and value == entry.last_modified
