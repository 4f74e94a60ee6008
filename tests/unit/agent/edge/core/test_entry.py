from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import conditional, entry_codec, freshness, http_date
from agent.edge.core.entry import StoredResponse, Variants, freshened, make
from agent.edge.core.headers import HeaderList

NOW = 1_750_000_000.0


def stored(
    body: bytes = b"0123456789", headers: HeaderList | None = None, control: bytes = b"max-age=60"
) -> StoredResponse:
    fields: HeaderList = [(b"Cache-Control", control), (b"ETag", b'"v1"'), *(headers or [])]
    verdict = freshness.judge(b"GET", 200, {}, {b"cache-control": control, b"etag": b'"v1"'}, NOW)
    return make(200, b"OK", fields, body, verdict, NOW, NOW)


def test_the_head_of_a_hit() -> None:
    entry = stored(headers=[(b"Connection", b"X-Hop"), (b"X-Hop", b"1"), (b"Age", b"5")])
    head = entry.plain_head(NOW + 10.5, b"id-1")
    assert head.endswith(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[:2] == [b"HTTP/1.1 200 OK", b"X-Request-Id: id-1"]
    assert b"Age: 15" in lines
    assert b"Cache-Status: locci; hit; ttl=44" in lines
    assert b"Content-Length: 10" in lines
    assert not any(line.startswith((b"X-Hop", b"Connection")) for line in lines)
    assert any(line.startswith(b"Date: ") for line in lines)


def test_a_body_is_kept_once() -> None:
    assert stored(b"x" * 20_000).cost_bytes < 25_000


def test_a_clock_that_jumps_back_makes_nothing_younger() -> None:
    assert stored(headers=[(b"Age", b"7")]).age_s(NOW - 1000) == 7


def test_validation_replaces_fields() -> None:
    before = stored(headers=[(b"X-A", b"old"), (b"X-B", b"kept"), (b"Content-Type", b"text/plain")])
    came = [(b"X-A", b"new"), (b"Cache-Control", b"max-age=5"), (b"Content-Type", b"text/x"), (b"Content-Length", b"0")]
    after = freshened(before, came, NOW + 100, NOW + 100)
    assert after.fields[b"x-a"] == b"new"
    assert after.fields[b"x-b"] == b"kept"
    assert after.fields[b"content-type"] == b"text/x"
    assert after.body == before.body
    assert after.ttl_s(NOW + 100) == 5
    assert after.fields[b"date"] == http_date.render(NOW + 100)


@given(
    st.binary(max_size=500),
    st.lists(st.tuples(st.sampled_from([b"X-A", b"X-B", b"Vary"]), st.binary(max_size=20)), max_size=5),
    st.binary(min_size=1, max_size=50),
)
def test_the_codec_there_and_back(body: bytes, headers: HeaderList, key: bytes) -> None:
    entry = stored(body, headers)
    decoded = entry_codec.decode(key, entry_codec.encode(key, entry))
    assert isinstance(decoded, StoredResponse)
    assert dataclasses.asdict(decoded) == dataclasses.asdict(entry)


@pytest.mark.parametrize("size", [0, 1000, entry_codec.STRIPE_BYTES + 1, 3 * entry_codec.STRIPE_BYTES])
def test_a_large_value_lies_in_stripes(size: int) -> None:
    value = entry_codec.encode(b"key", stored(b"x" * size))
    written = entry_codec.divide(b"key", value, b"nonce")
    assert all(len(part) <= entry_codec.STRIPE_BYTES for _, part in written)
    held = dict(written)
    found = entry_codec.decode(b"key", held[b"key"])
    if size > entry_codec.STRIPE_BYTES:
        assert isinstance(found, entry_codec.Striped)
        assert entry_codec.decode(b"other", held[b"key"]) is None
        found = entry_codec.decode(b"key", b"".join(held[key] for key in found.keys(b"key")))
    assert isinstance(found, StoredResponse)
    assert len(found.body) == size


def test_markers_there_and_back() -> None:
    variants = Variants((b"accept", b"accept-language"), b"abc")
    assert entry_codec.decode(b"k", entry_codec.encode_marker(b"k", variants)) == variants


@given(st.binary(max_size=300))
def test_the_codec_takes_no_garbage(data: bytes) -> None:
    assert entry_codec.decode(b"key", data) is None
    assert entry_codec.decode(b"key", entry_codec.MAGIC + data) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_is_seen(position: int, change: int) -> None:
    data = bytearray(entry_codec.encode(b"key", stored()))
    data[position % len(data)] ^= change
    assert entry_codec.decode(b"key", bytes(data)) is None
    assert entry_codec.decode(b"other", entry_codec.encode(b"key", stored())) is None


@pytest.mark.parametrize("content", [b"", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\xff\xff\xff\xff", b"\0\0\0\4null"])
def test_a_right_checksum_over_nonsense(content: bytes) -> None:
    assert entry_codec.decode(b"key", entry_codec.MAGIC + entry_codec.sum_of(b"key", content) + content) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({b"if-none-match": b'"v1"'}, True),
        ({b"if-none-match": b'W/"v1"'}, True),  # weak comparison, RFC 9110 section 13.1.2
        ({b"if-none-match": b'"v0", "v1"'}, True),
        ({b"if-none-match": b"*"}, True),
        ({b"if-none-match": b'"v2"'}, False),
        ({b"if-none-match": b'"v2"', b"if-modified-since": http_date.render(NOW + 9)}, False),  # step 4 is left out
        ({b"if-modified-since": b"Sun, 06 Nov 1994 08:49:37 GMT"}, True),
        ({b"if-modified-since": b"Sun, 06 Nov 1994 08:49:36 GMT"}, False),
        ({b"if-modified-since": b"nonsense"}, False),
    ],
)
def test_conditions(fields: dict[bytes, bytes], expected: bool) -> None:
    entry = stored(headers=[(b"Last-Modified", b"Sun, 06 Nov 1994 08:49:37 GMT")])
    assert conditional.not_modified(fields, entry, NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes=0-3", [(0, 3)]),
        (b"Bytes= 0-3", [(0, 3)]),
        (b"bytes=5-", [(5, 9)]),
        (b"bytes=-3", [(7, 9)]),
        (b"bytes=-100", [(0, 9)]),
        (b"bytes=8-100", [(8, 9)]),
        (b"bytes=0-1,3-4", [(0, 1), (3, 4)]),
        (b"bytes=-2, 0-0", [(8, 9), (0, 0)]),
        (b"bytes=0-1,50-60", [(0, 1)]),
        (b"bytes=50-60,70-", True),
        (b"bytes=0-5,5-6", False),  # section 17.15
        (b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(9)), False),
        (b"bytes=10-", True),
        (b"bytes=-0", True),
        (b"bytes=3-1", False),
        (b"bytes=0-1,,", False),
        (b"lines=0-1", False),
        (b"bytes=-", False),
        (b"bytes=a-b", False),
    ],
)
def test_ranges(value: bytes, expected: object) -> None:  # RFC 9110 section 14.1.2
    assert conditional.byte_ranges({b"range": value}, stored()) == expected


@pytest.mark.parametrize(("if_range", "taken"), [(b'"v1"', True), (b'W/"v1"', False), (b'"v2"', False), (b"x", False)])
def test_if_range(if_range: bytes, taken: bool) -> None:  # RFC 9110 section 13.1.5
    found = conditional.byte_ranges({b"range": b"bytes=0-1", b"if-range": if_range}, stored())
    assert found == ([(0, 1)] if taken else False)
