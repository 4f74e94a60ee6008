"""A stored response and what is derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from agent.edge.core import cache_status, compression, freshness, hpack_literals, http_date, partial, vary
from agent.edge.core.cache_rules import NO_RULES, CacheRules
from agent.edge.core.freshness import Verdict
from agent.edge.core.headers import Fields, HeaderList, encode_head, end_to_end, fields_of
from agent.edge.core.http2_request import FORBIDDEN
from agent.edge.core.http_rules import HeaderEdits
from agent.edge.core.partial import Parts, Place

OVERHEAD_BYTES: Final = 1200
"""About what the objects around a small entry take."""
VIEW_BYTES_MIN: Final = 256 * 1024
STRETCH_BYTES: Final = 150
"""About what the objects around a stretch of a body take."""
_ID_FIELD: Final = hpack_literals.begun(b"x-request-id")
# Section 3.1 of RFC 9111 forbids the proxy fields; the others are made anew for each response.
_NOT_STORED: Final = frozenset(
    (
        b"age",
        b"content-length",
        b"cache-status",
        b"via",
        b"x-request-id",
        b"locci-hop",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    )
)
# RFC 9111 section 3.2: what a 304 does not update.
# A body that stays keeps its coding, place and length; its type may become known better.
_NOT_UPDATED: Final = frozenset((b"content-encoding", b"content-range", b"content-length"))


@dataclass(slots=True)
class StoredResponse:
    """A whole response, or parts of one. All but `fixed`, `block`, its second, `checked`, `edits` is constant."""

    status: int
    reason: bytes
    headers: HeaderList
    body: bytes
    verdict: Verdict
    response_time: float
    initial_age_s: float
    keyed: tuple[bytes, ...] = ()
    """What it varies on by the app's rules."""
    vary: tuple[bytes, ...] = ()
    """What it varies on by the rules and by its Vary field, sorted."""
    etag: bytes = b""
    last_modified: bytes = b""
    fixed: bytes = b""
    """The fields of its head that stay the same from second to second, as they are sent."""
    block_second: int = -1
    block: bytes = b""
    """The fields of a plain hit over HTTP/2 in this second."""
    fresh_until: float = 0.0
    """Wall time until which it may be used without a thought; 0 when it must be validated always."""
    cost_bytes: int = field(default=0)
    sequence: int = 0
    """The newest order to purge that was known when its fetch began."""
    coding: bytes = b""
    """What its body was compressed with here."""
    checked: int = -1
    """The round of orders that it was last compared with."""
    parts: Parts | None = None
    """Instead of the body, what is there of it; the status is 206 then."""
    edits: HeaderEdits | None = None
    """What clients see otherwise than it is stored."""

    def age_s(self, now: float) -> float:
        """Current age (RFC 9111 section 4.2.3); a clock that jumped back makes nothing younger than it came."""
        return self.initial_age_s + max(0.0, now - self.response_time)

    def ttl_s(self, now: float) -> float:
        """Freshness that is left; negative when stale."""
        return self.verdict.lifetime_s - self.age_s(now)

    @property
    def fields(self) -> Fields:
        """The stored fields by lower-case name."""
        return fields_of(self.headers)

    @property
    def size(self) -> int:
        """Bytes of the whole body."""
        return len(self.body) if self.parts is None else self.parts.total

    def take(self, first: int, last: int) -> bytes | None:
        """The body's bytes from first to last, or None when they are not all there."""
        return self.body[first : last + 1] if self.parts is None else self.parts.take(first, last)

    def view(self, first: int, last: int) -> bytes | memoryview | None:
        """The same, without a copy of a large part of a whole body."""
        if self.parts is None and last - first >= VIEW_BYTES_MIN:
            return memoryview(self.body)[first : last + 1]
        return self.take(first, last)

    @property
    def useful_until(self) -> float:
        """Wall time after which it is of no use but for validation."""
        extra = max(self.verdict.stale_while_revalidate_s, self.verdict.stale_if_error_s)
        return self.response_time - self.initial_age_s + self.verdict.lifetime_s + extra

    def dressed(self, now: float, status_member: bytes) -> HeaderList:
        """The fields that go with the whole body in this second."""
        age = b"%d" % int(self.age_s(now))
        return [*self._lasting(), (b"Age", age), (b"Via", b"1.1 locci"), (cache_status.NAME, status_member)]

    def _lasting(self) -> HeaderList:
        headers = self.headers if self.edits is None else self.edits.apply(self.headers)
        return headers if self.status == 204 else [*headers, (b"Content-Length", b"%d" % len(self.body))]

    def fix(self) -> bytes:
        """Makes `fixed`."""
        self.fixed = encode_head(b"", self._lasting())[:-2]
        return self.fixed

    def plain_head(self, now: float, request_id: bytes, member: bytes = b"") -> bytes:
        """The head of a 200; with our member of Cache-Status when that does not simply say that it is a hit."""
        member = member or cache_status.hit(int(self.ttl_s(now)))
        return b"HTTP/1.1 200 OK\r\nX-Request-Id: %b%bAge: %d\r\nVia: 1.1 locci\r\nCache-Status: %b\r\n\r\n" % (
            request_id,
            self.fixed or self.fix(),
            int(self.age_s(now)),
            member,
        )

    def render_block(self, now: float) -> bytes:
        """A plain hit's fields for HTTP/2, up to the length of the request's id, which is the last."""
        member = cache_status.hit(int(self.ttl_s(now)))
        fields = [pair for pair in self.dressed(now, member) if pair[0].lower() not in FORBIDDEN]
        self.block = hpack_literals.block([(b":status", b"%d" % self.status), *fields]) + _ID_FIELD
        self.block_second = int(now)
        return self.block


@dataclass(frozen=True, slots=True)
class Variants:
    """Stands under a primary key whose responses vary. A new nonce drops all of them at once."""

    names: tuple[bytes, ...]
    nonce: bytes

    def key(self, primary: bytes, request: Fields) -> bytes:
        """Where the variant that fits the request is (RFC 9111 section 4.1)."""
        return b"\n".join((primary, self.nonce, vary.secondary(self.names, request)))


def make(
    status: int,
    reason: bytes,
    headers: HeaderList,
    body: bytes,
    verdict: Verdict,
    request_time: float,
    response_time: float,
    keyed: tuple[bytes, ...] = (),
    sequence: int = 0,
) -> StoredResponse:
    """The entry of a response that `freshness.judge` found storable. Times are seconds since 1970."""
    fields = fields_of(headers)
    left_out = _NOT_STORED | verdict.omitted
    kept = [pair for pair in end_to_end(headers, fields) if pair[0].lower() not in left_out]
    if b"date" not in fields:  # RFC 9110 section 6.6.1
        kept.append((b"Date", http_date.render(response_time)))
    return restore(
        StoredResponse(
            status,
            reason,
            kept,
            body,
            verdict,
            response_time,
            freshness.initial_age_s(fields, request_time, response_time),
            keyed,
            sequence=sequence,
        )
    )


def restore(entry: StoredResponse) -> StoredResponse:
    """Fills in what is derived from the stored fields."""
    fields = entry.fields
    entry.vary = ()
    if entry.keyed or b"vary" in fields:
        entry.vary = tuple(sorted({*(vary.names(fields.get(b"vary")) or ()), *entry.keyed}))
    entry.etag = fields.get(b"etag", b"")
    entry.last_modified = fields.get(b"last-modified", b"")
    if not entry.verdict.validate_always:
        entry.fresh_until = entry.response_time - entry.initial_age_s + entry.verdict.lifetime_s
    head = sum([len(name) + len(value) + 120 for name, value in entry.headers])
    entry.cost_bytes = OVERHEAD_BYTES + len(entry.body) + 3 * head
    if entry.parts is not None:
        entry.cost_bytes += entry.parts.size + STRETCH_BYTES * len(entry.parts.stretches)
    entry.block_second = -1
    entry.fixed = b""
    return entry


def part(entry: StoredResponse, place: Place, data: bytes) -> StoredResponse:
    """The stored form of a 206: its fields but for the place, which is kept apart (RFC 9111 section 3.3)."""
    headers = [pair for pair in entry.headers if pair[0].lower() != b"content-range"]
    parts = Parts(place.total, ((place.first, data),))
    return restore(replace(entry, status=206, headers=headers, body=b"", parts=parts))


def combined(before: StoredResponse, came: StoredResponse, bytes_max: int) -> StoredResponse:
    """What is stored when a part came (RFC 9111 section 3.4; RFC 9110 section 15.3.7.3).

    Parts with the same strong validator are put together, with the fields of the newer one replacing those of the
    older; when nothing is missing any more that is a whole 200. Otherwise, or above `bytes_max`, the newer replaces
    the older.
    """
    if before.parts is None or came.parts is None or not same_body(before, came):
        return came
    parts = before.parts
    for first, data in came.parts.stretches:
        parts = parts.joined(first, data)
    if parts.size > bytes_max:
        return came
    headers = completed(before, came.headers)
    sequence = min(before.sequence, came.sequence)
    body = parts.take(0, parts.total - 1)
    if body is None:
        return restore(replace(came, headers=headers, parts=parts, sequence=sequence))
    return restore(replace(came, status=200, reason=b"OK", headers=headers, body=body, parts=None, sequence=sequence))


def completed(before: StoredResponse, came: HeaderList) -> HeaderList:
    """The fields of a response that a part makes whole: the stored ones, replaced by those that came."""
    names = {name.lower() for name, _ in came}
    kept = [pair for pair in before.headers if pair[0].lower() not in names]
    return kept + [pair for pair in came if pair[0].lower() != b"content-range"]


def labelled_as_plain(entry: StoredResponse) -> StoredResponse:
    """The entry as it came, among others that are coded here."""
    return restore(replace(entry, headers=compression.labelled(entry.headers, b"")))


def same_body(one: StoredResponse, other: StoredResponse) -> bool:
    """Whether both are of the very same representation: the same length, and the same strong validator."""
    validator = partial.strong_validator(one.fields, one.response_time)
    return (
        one.size == other.size
        and bool(validator)
        and validator == partial.strong_validator(other.fields, other.response_time)
    )


def coded(entry: StoredResponse, coding: bytes) -> StoredResponse:
    """The entry in a coding, or as it came when that is empty, among others that differ by Accept-Encoding.

    A body that would grow stays as it is.
    """
    body = compression.compressed(entry.body, coding) if coding else entry.body
    if len(body) >= len(entry.body):
        coding, body = b"", entry.body
    return restore(replace(entry, headers=compression.labelled(entry.headers, coding), body=body, coding=coding))


def made_stale(entry: StoredResponse, now: float) -> StoredResponse:
    """The entry as if its lifetime ended now: it is validated, or served stale as far as it allows that."""
    age = int(entry.age_s(now))
    lifetime = min(entry.verdict.lifetime_s, age)
    return restore(replace(entry, verdict=replace(entry.verdict, lifetime_s=lifetime), checked=-1))


def own_only(headers: HeaderList, verdict: Verdict) -> HeaderList:
    """The fields that are not stored but belong to the client for whom the response was fetched."""
    return [pair for pair in headers if pair[0].lower() in verdict.omitted]


def freshened(
    entry: StoredResponse,
    headers: HeaderList,
    request_time: float,
    response_time: float,
    request: Fields | None = None,
    rules: CacheRules = NO_RULES,
    sequence: int = 0,
) -> StoredResponse:
    """The entry after a 304 (RFC 9111 sections 3.2 and 4.3.4): its fields replaced by those that came.

    Its verdict says whether it may still be stored, after a 304 to `request`.
    """
    came = fields_of(headers)
    merged_all = entry.fields | came
    status = entry.status if entry.parts is None else 200
    asked = {name: value for name, value in (request or {}).items() if name != b"range"}
    verdict = freshness.judge(b"GET", status, asked, merged_all, response_time, rules)
    left_out = _NOT_STORED | _NOT_UPDATED
    fresh = [pair for pair in end_to_end(headers, came) if pair[0].lower() not in left_out]
    names = {name.lower() for name, _ in fresh}
    kept = [pair for pair in entry.headers if pair[0].lower() not in names] + fresh
    kept = [pair for pair in kept if pair[0].lower() not in verdict.omitted]
    if b"date" not in came:
        kept = [pair for pair in kept if pair[0].lower() != b"date"] + [(b"Date", http_date.render(response_time))]
    if entry.coding:
        kept = compression.labelled(kept, entry.coding)
    merged = fields_of(kept)
    age = freshness.initial_age_s(
        merged | ({b"age": came[b"age"]} if b"age" in came else {}), request_time, response_time
    )
    fresh_one = StoredResponse(entry.status, entry.reason, kept, entry.body, verdict, response_time, age, entry.keyed)
    fresh_one.sequence, fresh_one.coding, fresh_one.parts = sequence, entry.coding, entry.parts
    return restore(fresh_one)
