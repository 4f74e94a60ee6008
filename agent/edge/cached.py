"""Answers from what is stored, without waiting for anything."""

from __future__ import annotations

from dataclasses import dataclass

from agent.edge import responses
from agent.edge.core import cache_status, conditional, freshness
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse
from agent.edge.core.headers import HeaderList
from agent.edge.core.http_rules import HeaderEdits
from agent.edge.core.request_head import RequestHead
from agent.edge.responses import Answer
from agent.edge.state import EdgeState


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the cache has for a request."""

    entry: StoredResponse | None
    usable: bool
    """The entry may be sent as it is."""
    revalidate: bool
    """It may be sent, and a fetch in the background makes it fresh again (RFC 5861 section 3)."""
    why: Forward
    """Why the request goes on when it is not usable."""
    detail: str = ""


def look_up(state: EdgeState, head: RequestHead, key: bytes) -> Lookup:
    """Finds a stored response for a GET or HEAD and decides whether it may be used (RFC 9111 section 4)."""
    # RFC 9111 section 4.3.2; and what is stored here may be what another edge was told to forget.
    if conditional.for_origin_only(head.fields) or state.is_behind(head):
        return Lookup(None, False, False, Forward.BYPASS)
    entry, other_variants = state.stored(key, head.fields)
    if entry is None:
        return Lookup(None, False, False, Forward.VARY_MISS if other_variants else Forward.URI_MISS)
    return judged(head, entry, state.wall())


def judged(head: RequestHead, entry: StoredResponse, now: float) -> Lookup:
    """Decides whether a stored response may be used for a request without conditions for the origin."""
    if entry.parts is not None and not (head.method == b"GET" and conditional.answers(head.fields, entry)):
        return Lookup(entry, False, False, Forward.PARTIAL)
    wanted = freshness.demands(head.fields)
    verdict = entry.verdict
    age = entry.age_s(now)
    if not verdict.validate_always and freshness.satisfied(wanted, age, verdict.lifetime_s, verdict.must_revalidate):
        return Lookup(entry, True, False, Forward.MISS)
    fresh = now < entry.fresh_until
    if fresh:
        return Lookup(entry, False, False, Forward.REQUEST)
    late = age - verdict.lifetime_s
    if not verdict.validate_always and not wanted.validate and late < verdict.stale_while_revalidate_s:
        return Lookup(entry, True, True, Forward.STALE)
    return Lookup(entry, False, False, Forward.STALE)


def respond(
    state: EdgeState,
    head: RequestHead,
    entry: StoredResponse,
    member: bytes,
    extra: HeaderList | None = None,
    edits: HeaderEdits | None = None,
) -> Answer:
    """The response to this request from a stored response, of which all that it needs is there, its fields edited.

    Conditions, ranges and HEAD are seen to (RFC 9110 sections 13 and 14).
    """
    now = state.clock.wall()
    if conditional.not_modified(head.fields, entry, now):
        headers = _dressed(_edited(conditional.headers_of_304(entry), edits), entry, now, member, extra)
        return Answer(304, b"Not Modified", headers, b"")
    headers = _edited(list(entry.headers), edits)
    status, reason = entry.status, entry.reason
    body: bytes | memoryview = entry.body
    ranges = conditional.byte_ranges(head.fields, entry) if head.method == b"GET" else False
    if ranges is True:
        size = b"bytes */%d" % entry.size
        more: HeaderList = [(b"Content-Range", size), (cache_status.NAME, member), *(extra or ())]
        return responses.explained(416, "the range lies outside", now, more)
    if not isinstance(ranges, bool):
        status, reason = 206, b"Partial Content"
        headers, body = _partial(state, entry, headers, ranges)
    if status != 204:
        headers.append((b"Content-Length", b"%d" % len(body)))
    headers = _dressed(headers, entry, now, member, extra)
    return Answer(status, reason, headers, b"" if head.method == b"HEAD" else body)


def _partial(
    state: EdgeState, entry: StoredResponse, headers: HeaderList, ranges: list[tuple[int, int]]
) -> tuple[HeaderList, bytes | memoryview]:
    """Fields and body of a 206 (RFC 9110 section 15.3.7): one range as it is, several as parts."""
    if len(ranges) == 1:
        first, last = ranges[0]
        data = entry.view(first, last)
        assert data is not None
        return [*headers, (b"Content-Range", b"bytes %d-%d/%d" % (first, last, entry.size))], data
    boundary = b"%032x" % state.rng.getrandbits(128)
    typed = (b"Content-Type", b"multipart/byteranges; boundary=" + boundary)
    kept = [pair for pair in headers if pair[0].lower() != b"content-type"]
    return [*kept, typed], conditional.multipart(entry, ranges, boundary)


def _edited(headers: HeaderList, edits: HeaderEdits | None) -> HeaderList:
    return headers if edits is None else edits.apply(headers)


def _dressed(
    headers: HeaderList, entry: StoredResponse, now: float, member: bytes, extra: HeaderList | None
) -> HeaderList:
    return [
        *headers,
        (b"Age", b"%d" % int(entry.age_s(now))),
        (b"Via", b"1.1 locci"),
        (cache_status.NAME, member),
        *(extra or ()),
    ]


def connection_header(head: RequestHead, close: bool) -> HeaderList:
    """What the client must know about the connection (RFC 9112 section 9.3)."""
    if close:
        return [(b"Connection", b"close")]
    return [(b"Connection", b"keep-alive")] if head.minor == 0 else []
