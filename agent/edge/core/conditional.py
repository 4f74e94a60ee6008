"""Requests with conditions and ranges, answered from a stored response (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import itertools
import re
from typing import Final

from agent.edge.core import http_date, partial
from agent.edge.core.entry import StoredResponse
from agent.edge.core.headers import Fields, HeaderList
from agent.edge.core.request_head import CONDITIONS

_RANGE: Final = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")
MULTIPART_BYTES_MAX: Final = 1024 * 1024
"""Several ranges are put together in memory; of a request for more of that the ranges are ignored (section 14.2)."""
RANGES_MAX: Final = 8
"""Of a request with more of them, or with some that overlap, the ranges are ignored (RFC 9110 section 17.15)."""
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
    if entry.status not in (200, 206):
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


def selects(entry: StoredResponse, came: Fields) -> bool:
    """Whether a 304 speaks of the stored response (RFC 9111 section 4.3.4).

    A strong tag must be the very same, a weak one alike, a date no other; without any it is ours, as we asked for it.
    """
    tag = came.get(b"etag")
    if tag is not None and entry.coding:  # the origin's tag was made weak here
        return _opaque(tag) == _opaque(entry.etag)
    if tag is not None:
        return _opaque(tag) == _opaque(entry.etag) if tag.startswith(b"W/") else tag == entry.etag
    date = came.get(b"last-modified")
    return date is None or date == entry.last_modified


def same_response(entry: StoredResponse, came: Fields) -> bool:
    """Whether the answer to a HEAD speaks of the stored response (RFC 9111 section 4.3.5): what came of validators and
    length is the same. Of what is coded here the length is another, and the tag is weak."""
    if not selects(entry, came) or came.get(b"last-modified", entry.last_modified) != entry.last_modified:
        return False
    length = came.get(b"content-length")
    return length is None or bool(entry.coding) or length == b"%d" % entry.size


def byte_ranges(fields: Fields, entry: StoredResponse) -> list[tuple[int, int]] | bool:
    """First and last bytes asked for; False when the range is ignored; True when none can be satisfied (416).

    Other units, nonsense, too many ranges and a failed If-Range are ignored (RFC 9110 sections 13.1.5 and 14.2).
    """
    value = fields.get(b"range")
    if value is None or entry.status not in (200, 206):
        return False
    unit, _, ranges = value.partition(b"=")
    if unit.lower() != b"bytes" or not _if_range(fields, entry):
        return False
    found: list[tuple[int, int]] = []
    parts = ranges.split(b",")
    if len(parts) > RANGES_MAX:
        return False
    for part in parts:
        match = _RANGE.fullmatch(part.strip(b" \t"))
        if match is None or not (match[1] or match[2]):
            return False
        if match[1] and match[2] and int(match[2]) < int(match[1]):
            return False
        if (one := _satisfied(match[1], match[2], entry.size)) is not None:
            found.append(one)
    if len(found) > 1 and sum(last - first + 1 for first, last in found) > MULTIPART_BYTES_MAX:
        return False
    in_order = sorted(found)
    if any(after[0] <= before[1] for before, after in itertools.pairwise(in_order)):
        return False
    return found or True


def answers(fields: Fields, entry: StoredResponse) -> bool:
    """Whether a response of which parts are stored can answer the request.

    Only one with ranges that lie within what is there (RFC 9111 section 3.3), or with none that can be satisfied.
    """
    ranges = byte_ranges(fields, entry)
    if isinstance(ranges, bool):
        return ranges
    return all(entry.take(first, last) is not None for first, last in ranges)


def wanted_part(fields: Fields) -> bytes:
    """What tells a request for one range of bytes, whose answer may be stored, from others; empty when it is none."""
    unit, _, value = fields.get(b"range", b"").partition(b"=")
    match = _RANGE.fullmatch(value.strip(b" \t"))
    if unit.lower() != b"bytes" or match is None or not (match[1] or match[2]):
        return b""
    if b"if-none-match" in fields or b"if-modified-since" in fields:
        return b""
    return match[0] + b"\n" + fields.get(b"if-range", b"")


def rest(entry: StoredResponse, bytes_max: int) -> tuple[int, int] | None:
    """First and last byte of what is missing, when one request for it makes the response whole (RFC 9111 section 3.4).

    None when there are several gaps, no strong validator to be sure by, or the whole would be above `bytes_max`.
    """
    gaps = [] if entry.parts is None else entry.parts.gaps()
    sure = partial.strong_validator(entry.fields, entry.response_time)
    return gaps[0] if len(gaps) == 1 and sure and entry.size <= bytes_max else None


def request_for_rest(entry: StoredResponse, gap: tuple[int, int]) -> HeaderList:
    """The fields that ask for the missing bytes, or for everything when it has changed (RFC 9110 section 13.1.5)."""
    last = b"%d" % gap[1] if gap[1] + 1 < entry.size else b""
    validator = partial.strong_validator(entry.fields, entry.response_time)
    return [(b"Range", b"bytes=%d-%b" % (gap[0], last)), (b"If-Range", validator)]


def _satisfied(first: bytes, last: bytes, size: int) -> tuple[int, int] | None:
    """What there is of one range (RFC 9110 section 14.1.2)."""
    if not first:
        suffix = int(last)
        return None if suffix == 0 or size == 0 else (max(0, size - suffix), size - 1)
    if int(first) >= size:
        return None
    return int(first), min(size - 1, int(last)) if last else size - 1


def multipart(entry: StoredResponse, ranges: list[tuple[int, int]], boundary: bytes) -> bytes:
    """Several ranges as the body of one 206 of the type multipart/byteranges (RFC 9110 section 14.6)."""
    content_type = entry.fields.get(b"content-type")
    typed = b"Content-Type: " + content_type + b"\r\n" if content_type else b""
    parts = []
    for first, last in ranges:
        where = b"Content-Range: bytes %d-%d/%d\r\n\r\n" % (first, last, entry.size)
        data = entry.take(first, last)
        assert data is not None
        parts.append(b"--" + boundary + b"\r\n" + typed + where + data + b"\r\n")
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


def _if_range(fields: Fields, entry: StoredResponse) -> bool:
    """Strong comparison with the tag, or with a date that is strong (RFC 9110 section 13.1.5)."""
    value = fields.get(b"if-range")
    if value is None:
        return True
    if value.startswith((b'"', b"W/")):
        return value == entry.etag and not value.startswith(b"W/")
    dated = {b"last-modified": entry.last_modified, b"date": entry.fields.get(b"date", b"")}
    return value == entry.last_modified and bool(partial.strong_validator(dated, entry.response_time))
