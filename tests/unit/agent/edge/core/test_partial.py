from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import freshness, http_date, partial
from agent.edge.core.entry import StoredResponse, combined, make, part
from agent.edge.core.headers import HeaderList
from agent.edge.core.partial import STRETCHES_MAX, Parts, Place, placed, strong_validator

NOW = 1_750_000_000.0
BODY = bytes(range(100))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (b"bytes 0-4/10", Place(0, 4, 10)),
        (b"Bytes 9-9/10", Place(9, 9, 10)),
        (b"bytes 5-4/10", None),
        (b"bytes 0-10/10", None),
        (b"bytes 0-4/*", None),
        (b"bytes */10", None),
        (b"lines 0-4/10", None),
        (b"bytes 0-4/10, bytes 5-6/10", None),
        (b"bytes=0-4/10", None),
        (b"bytes 0-4/9999999999999999999", None),
        (b"", None),
    ],
)
def test_places(value: bytes, place: Place | None) -> None:
    assert placed(206, {b"content-range": value}) == place
    assert placed(200, {b"content-range": value}) is None


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 40)), max_size=12), st.integers(0, 99), st.integers(0, 99))
def test_stretches_hold_what_was_put_in(puts: list[tuple[int, int]], one: int, other: int) -> None:
    parts, held = Parts(100, ()), set[int]()
    for first, size in puts:
        data = BODY[first : first + size]
        parts = parts.joined(first, data)
        held |= set(range(first, first + len(data)))
    assert parts.size == len(held)
    assert [at for first, last in parts.gaps() for at in range(first, last + 1)] == sorted(set(range(100)) - held)
    first, last = sorted((one, other))
    expected = BODY[first : last + 1] if held.issuperset(range(first, last + 1)) else None
    assert parts.take(first, last) == expected
    starts = [start for start, _ in parts.stretches]
    assert starts == sorted(starts)


def test_stretches_have_a_bound() -> None:
    touching = Parts(10_000, ())
    for at in range(1000):
        touching = touching.joined(at, b"x")
        assert len(touching.stretches) <= STRETCHES_MAX
    assert touching.size == 1000
    scattered = Parts(10_000, ())
    for at in range(0, 2000, 2):
        scattered = scattered.joined(at, b"x")
        assert len(scattered.stretches) <= STRETCHES_MAX
    assert scattered.take(1998, 1998) == b"x", "the newest stays"


def test_strong_validators() -> None:
    date = http_date.render(NOW)
    assert strong_validator({b"etag": b'"a"'}, NOW) == b'"a"'
    assert strong_validator({b"etag": b'W/"a"', b"last-modified": http_date.render(0), b"date": date}, NOW) == b""
    old = http_date.render(NOW - 60)
    assert strong_validator({b"last-modified": old, b"date": date}, NOW) == old
    assert strong_validator({b"last-modified": date, b"date": date}, NOW) == b""
    assert strong_validator({b"last-modified": old}, NOW) == b""
    assert strong_validator({}, NOW) == b""


def stored(place: Place, tag: bytes = b'"a"', headers: HeaderList | None = None, sequence: int = 0) -> StoredResponse:
    fields: HeaderList = [(b"Cache-Control", b"max-age=60"), (b"ETag", tag), *(headers or [])]
    verdict = freshness.judge(b"GET", 200, {}, {b"cache-control": b"max-age=60"}, NOW)
    fields.append((b"Content-Range", place.field()))
    entry = make(206, b"Partial Content", fields, b"", verdict, NOW, NOW, sequence=sequence)
    return part(entry, place, BODY[place.first : place.last + 1])


def test_combining() -> None:
    before = stored(Place(0, 49, 100), headers=[(b"X-A", b"old"), (b"X-B", b"kept")], sequence=3)
    came = stored(Place(40, 79, 100), headers=[(b"X-A", b"new")], sequence=5)
    both = combined(before, came, 1000)
    assert both.status == 206
    assert both.parts is not None
    assert both.parts.take(0, 79) == BODY[:80]
    assert (both.fields[b"x-a"], both.fields[b"x-b"]) == (b"new", b"kept")
    assert both.sequence == 3, "what was stored before an order is still about it"
    assert b"content-range" not in both.fields
    whole = combined(both, stored(Place(80, 99, 100)), 1000)
    assert (whole.status, whole.reason, whole.parts, whole.body) == (200, b"OK", None, BODY)
    assert whole.size == 100


@pytest.mark.parametrize(
    "came", [stored(Place(50, 99, 100), b'"b"'), stored(Place(50, 99, 100), b'W/"a"'), stored(Place(50, 98, 99))]
)
def test_what_is_not_of_the_same_body_replaces(came: StoredResponse) -> None:
    assert combined(stored(Place(0, 49, 100)), came, 1000) is came


def test_combining_stays_within_its_bound() -> None:
    before, came = stored(Place(0, 49, 100)), stored(Place(50, 79, 100))
    assert combined(before, came, 79) is came
    assert combined(before, came, 80) is not came


def test_what_a_part_costs() -> None:
    one = stored(Place(0, 49, 100))
    many = dataclasses.replace(one, parts=Parts(100, tuple((at, b"x") for at in range(50))))
    assert one.cost_bytes > 50
    assert partial.Parts(100, ()).size == 0
    assert many.size == one.size == 100
