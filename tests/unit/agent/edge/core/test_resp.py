from __future__ import annotations

import contextlib
import itertools
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import crc

from agent.edge.core import resp

scalars = st.one_of(st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1), st.none())
replies = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


def encoded(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join(map(encoded, reply)))
    return b"$%d\r\n%b\r\n" % (len(reply), reply)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[first:last] for first, last in itertools.pairwise(at)]


@given(st.lists(replies, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_replies_come_out_however_they_are_cut(wanted: list[Any], cuts: list[int]) -> None:
    reader = resp.Replies()
    found = [reply for piece in pieces_of(b"".join(map(encoded, wanted)), cuts) for reply in reader.feed(piece)]
    assert found == wanted


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5))
def test_commands_are_what_redis_reads(parts: list[bytes]) -> None:
    assert list(resp.Replies().feed(resp.command(*parts))) == [parts]


@given(st.binary(max_size=50), st.binary(max_size=300), st.integers(1, 2**31))
def test_get_and_put(name: bytes, value: bytes, keep_ms: int) -> None:
    assert resp.get(name) == resp.command(b"GET", name)
    assert resp.put(name, value, keep_ms) == resp.command(b"SET", name, value, b"PX", str(keep_ms).encode())


@given(st.one_of(st.binary(max_size=300), st.text("$*:+-0123456789\r\nab", max_size=60).map(str.encode)))
def test_garbage_is_either_replies_or_refused(data: bytes) -> None:
    with contextlib.suppress(resp.NotRedis):
        for reply in resp.Replies().feed(data):
            assert reply is None or isinstance(
                reply, bytes | int | list | float | hiredis.ReplyError | dict | bool | set
            )


def test_an_error_is_a_reply() -> None:
    (reply,) = resp.Replies().feed(b"-OOM no room\r\n")
    assert isinstance(reply, hiredis.ReplyError)


def test_a_reply_without_an_end_is_refused() -> None:
    reader = resp.Replies(bytes_max=1000)
    assert list(reader.feed(b"$1000000\r\n")) == []
    with pytest.raises(resp.NotRedis, match="more than 1000 bytes"):
        list(reader.feed(b"x" * 1000))


@given(st.binary(max_size=40) | st.from_regex(rb"[a-c{}]{0,12}", fullmatch=True))
def test_slots_are_those_of_the_cluster_specification(name: bytes) -> None:
    assert resp.key_slot(name) == crc.key_slot(name)
