"""Stored forms are read alike by the compiled part and by Python."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge import quick, quick_path
from agent.edge.core import entry_codec
from agent.edge.core.entry import StoredResponse, restore
from agent.edge.core.freshness import Verdict

pytestmark = pytest.mark.skipif(quick.compiled is None, reason="no compiler was there when the project was installed")
quick_path.install()

names = st.sampled_from([b"ETag", b"etag", b"Last-Modified", b"Vary", b"Content-Type", b"Date", b"X", b"", b"Etags"])
values = st.one_of(st.sampled_from([b"", b' "v" ', b"\tx", b"accept-encoding", b"*"]), st.binary(max_size=300))
seconds = st.integers(0, 2**64 - 1) | st.integers(0, 100)


@st.composite
def entries(draw: st.DrawFn) -> StoredResponse:
    verdict = Verdict(True, "", draw(seconds), draw(st.booleans()), draw(st.booleans()), draw(seconds), draw(seconds))
    return restore(
        StoredResponse(
            draw(st.sampled_from([200, 204, 404, 206, 0, 65535])),
            draw(st.binary(max_size=10)),
            draw(st.lists(st.tuples(names, values), max_size=6)),
            draw(st.binary(max_size=400)),
            verdict,
            draw(st.floats(0, 1e12)),
            draw(st.floats(0, 1e9)),
            tuple(draw(st.lists(st.binary(max_size=5), max_size=1))),
            sequence=draw(seconds),
            coding=draw(st.binary(max_size=4)),
        )
    )


def by_python(key: bytes, data: bytes) -> StoredResponse | None:
    found = entry_codec.decode(key, data)
    return found if isinstance(found, StoredResponse) else None


def compared(entry: StoredResponse) -> tuple[object, ...]:
    """All of it; that its head is ready, or is not, is no difference."""
    entry.fix()
    return tuple(map(repr, dataclasses.astuple(entry)))


@given(entries(), st.binary(max_size=300))
def test_what_was_stored_is_read_alike(entry: StoredResponse, key: bytes) -> None:
    assert quick.decode is not None
    data = entry_codec.encode(key, entry)
    found, usual = quick.decode(key, data), by_python(key, data)
    assert usual is not None
    if entry.keyed:
        assert found is None, "this is left to Python"
        return
    assert found is not None
    ready = found.fixed
    assert compared(found) == compared(usual)
    assert ready in (b"", usual.fixed)
    assert quick.decode(key + b"x", data) is None


@given(
    entries(),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 80),
)
def test_what_is_not_whole_is_not_taken(entry: StoredResponse, marks: list[tuple[int, int]], cut: int) -> None:
    """With a sum that fits, whatever the content says."""
    assert quick.decode is not None
    data = entry_codec.encode(b"key", entry)
    content = bytearray(data[20 : len(data) - cut])
    for at, value in marks:
        if content:
            content[at % min(len(content), 100)] = value
    forged = entry_codec.MAGIC + entry_codec.sum_of(b"key", bytes(content)) + bytes(content)
    found, usual = quick.decode(b"key", forged), by_python(b"key", forged)
    if found is not None:
        assert usual is not None
        assert compared(found) == compared(usual)
    assert quick.decode(b"key", data[:4] + bytes(16) + bytes(content)) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_borne(data: bytes) -> None:
    assert quick.decode is not None
    assert quick.decode(b"key", data) is None
    content = data
    forged = entry_codec.MAGIC + entry_codec.sum_of(b"key", content) + content
    found = quick.decode(b"key", forged)
    assert found is None or math.isfinite(found.response_time)
