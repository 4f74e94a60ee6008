from __future__ import annotations

import gzip

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import compression, freshness
from agent.edge.core.conditional import selects
from agent.edge.core.entry import StoredResponse, coded, freshened, make
from agent.edge.core.headers import fields_of

NOW = 1_750_000_000.0
TEXT = {b"content-type": b"text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, b""),
        (b"", b""),
        (b"gzip", b"gzip"),
        (b"gzip, br, zstd", b"zstd"),
        (b"gzip;q=1.0, br;q=0.9", b"gzip"),
        (b"GZIP ; q=0.5", b"gzip"),
        (b"gzip;q=0", b""),
        (b"*", b"zstd"),
        (b"zstd;q=0, *", b"br"),
        (b"*;q=0", b""),
        (b"identity, gzip;q=0.5", b""),
        (b"identity;q=0.5, gzip", b"gzip"),
        (b"deflate", b""),
        (b"gzip;q=x", b""),
    ],
)
def test_the_coding_that_a_client_likes_best(value: bytes | None, expected: bytes) -> None:
    assert compression.choose(value) == expected


@pytest.mark.parametrize(
    ("fields", "size", "status", "expected"),
    [
        (TEXT, 512, 200, True),
        (TEXT, 511, 200, False),
        (TEXT, 512, 404, False),
        (TEXT | {b"content-encoding": b"gzip"}, 512, 200, False),
        (TEXT | {b"cache-control": b"max-age=1, no-transform"}, 512, 200, False),
        (TEXT | {b"cdn-cache-control": b"max-age=1", b"cache-control": b"no-transform"}, 512, 200, False),
        ({b"content-type": b"application/ld+json"}, 512, 200, True),
        ({b"content-type": b"image/png"}, 512, 200, False),
        ({}, 512, 200, False),
    ],
)
def test_what_is_compressed(fields: dict[bytes, bytes], size: int, status: int, expected: bool) -> None:
    assert compression.eligible(status, fields, size) == expected


@given(st.binary(max_size=2000), st.sampled_from(compression.CODINGS))
def test_there_and_back(body: bytes, coding: bytes) -> None:
    data = compression.compressed(body, coding)
    match coding:
        case b"zstd":
            assert zstandard.ZstdDecompressor().decompress(data) == body
        case b"br":
            assert brotli.decompress(data) == body
        case _:
            assert gzip.decompress(data) == body


def stored(body: bytes = b"text " * 300) -> StoredResponse:
    headers = [(b"Cache-Control", b"max-age=60"), (b"ETag", b'"v1"'), (b"Vary", b"X-A")]
    verdict = freshness.judge(b"GET", 200, {}, fields_of(headers), NOW)
    return make(200, b"OK", headers, body, verdict, NOW, NOW)


def test_fields_of_a_coded_entry_and_its_validation() -> None:
    entry = coded(stored(), b"br")
    assert entry.vary == (b"accept-encoding", b"x-a")
    assert (entry.etag, entry.fields[b"content-encoding"]) == (b'W/"v1"', b"br")
    assert selects(entry, {b"etag": b'"v1"'})
    assert not selects(entry, {b"etag": b'"v2"'})
    after = freshened(entry, [(b"ETag", b'"v1"'), (b"Vary", b"X-B"), (b"Content-Encoding", b"gzip")], NOW, NOW)
    assert (after.etag, after.vary) == (b'W/"v1"', (b"accept-encoding", b"x-b"))
    assert (after.fields[b"content-encoding"], after.body, after.coding) == (b"br", entry.body, b"br")


def test_what_stays_as_it_is_varies_all_the_same() -> None:
    for entry in (coded(stored(), b""), coded(stored(b"x"), b"gzip")):
        assert (entry.coding, entry.etag, b"content-encoding" in entry.fields) == (b"", b'"v1"', False)
        assert entry.vary == (b"accept-encoding", b"x-a")
