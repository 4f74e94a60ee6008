"""The compiled way of a request does what the methods do that it replaces: the same bytes, counts and lines."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.edge import quick, quick_path
from agent.edge.access_log import PythonLines
from agent.edge.core import freshness
from agent.edge.core.entry import StoredResponse, make
from agent.edge.core.http_rules import HeaderEdits
from agent.edge.core.request_head import check
from agent.edge.counters import Counters
from agent.edge.responder import Request
from tests.unit.agent.edge.test_express import ANSWER, REQUEST, NeedsTaskError, Rig, going

pytestmark = pytest.mark.skipif(quick.compiled is None, reason="no compiler was there when the project was installed")
NOW = 1_700_000_000.5
KEY = b"http://app.test/a"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def entry_of(
    status: int, body: bytes, fields: list[tuple[bytes, bytes]], lifetime_s: int, age_s: float
) -> StoredResponse:
    control = (b"Cache-Control", b"max-age=%d" % lifetime_s)
    verdict = freshness.judge(b"GET", 200, {}, {b"cache-control": control[1]}, NOW)
    return make(status, b"OK", [control, *fields], body, verdict, NOW - age_s, NOW - age_s)


entries = st.builds(
    entry_of,
    st.sampled_from([200, 200, 200, 404, 204]),
    st.sampled_from([b"", b"abc", b"x" * 16_384, b"x" * 16_385, b"x" * 262_145]),
    st.lists(
        st.tuples(st.sampled_from([b"X-A", b"Server", b"Age"]), st.sampled_from([b"", b"7", b"value"])), max_size=3
    ),
    st.integers(0, 2**40) | st.integers(0, 50),
    st.floats(-10, 60),
)


def a_hit(
    loop: asyncio.AbstractEventLoop, entry: StoredResponse, way: str, checked: int, request: bytes, logged: bool
) -> tuple[Any, ...]:
    """What clients get and what is noted, three requests in a row."""
    with going(way):
        rig = Rig(loop, Path("/nowhere"))
        if not logged:
            rig.state.access_log = None
        key = rig.state.key(b"http", b"app.test", b"/a")
        entry.checked, entry.fixed, rig.state.purge_round = checked, b"", 1
        rig.state.store.put(key, entry, entry.cost_bytes)
        got = []
        for _ in range(3):
            rig.client.data_received(request)
            got.append((rig.client_wire.take(), rig.replica_wire.take()))
            if rig.client.busy:
                break
        node = rig.state.store._nodes.get(key)
        return got, rig.facts(), node is not None and node.frequency, rig.state.request_id()


@settings(max_examples=150, deadline=None)
@given(entries, st.sampled_from([1, 1, 1, 0]), st.booleans(), st.booleans())
def test_hits_are_answered_alike(
    loop: asyncio.AbstractEventLoop, entry: StoredResponse, checked: int, conditional: bool, logged: bool
) -> None:
    request = REQUEST.replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n") if conditional else REQUEST
    found: list[Any] = []
    for way in ("python", "compiled"):
        try:
            found.append(a_hit(loop, entry, way, checked, request, logged))
        except NeedsTaskError:
            found.append(None)
    assert found[0] == found[1]


def recalled(loop: asyncio.AbstractEventLoop, entry: StoredResponse, way: str) -> tuple[Any, ...]:
    """What is sent when the second tier had it."""
    with going(way):
        rig = Rig(loop, Path("/nowhere"))
        head = check(b"GET", b"/a", [(b"Host", b"app.test")], {b"host": b"app.test"}, 1, keep_alive=True)
        request = Request(head, KEY, None, b"id-12345", loop.time())
        request.app = "app"
        rig.client._active = request
        rig.client.send_whole(request, entry, NOW)
        return rig.client_wire.take(), rig.facts(), rig.client._active, rig.client._relay


@settings(max_examples=60, deadline=None)
@given(entries)
def test_what_the_second_tier_had_is_sent_alike(loop: asyncio.AbstractEventLoop, entry: StoredResponse) -> None:
    assert recalled(loop, entry, "python") == recalled(loop, entry, "compiled")


def test_edits_are_seen(loop: asyncio.AbstractEventLoop) -> None:
    entry = entry_of(200, b"abc", [], 60, 0.0)
    entry.edits = HeaderEdits(frozenset(), ((b"X-Own", b"1"),))
    got, *_ = a_hit(loop, entry, "compiled", 1, REQUEST, True)
    assert b"\r\nX-Own: 1\r\n" in got[0][0]


def test_nothing_is_held_for_longer_than_it_is_needed(loop: asyncio.AbstractEventLoop) -> None:
    rig, kept = Rig(loop, Path("/nowhere")), Rig(loop, Path("/nowhere"))
    rig.ask()
    rig.answer(ANSWER)
    entry = entry_of(200, b"abc", [], 60, 0.0)
    entry.checked = kept.state.purge_round
    key = kept.state.key(b"http", b"app.test", b"/a")
    kept.state.store.put(key, entry, 1)
    kept.client.data_received(REQUEST)
    way = rig.client._way
    assert way is not None
    watched: list[Any] = [
        rig.client, rig.replica, rig.state, rig.client_wire, rig.replica_wire, rig.client._candidate, way, way.head,
        way.table, way.request, way.prefix, way.member, rig.client.address, rig.state.counters,
        rig.state.access_log, kept.client, kept.client_wire, kept.state, entry, entry.body, entry.fixed,
        entry.verdict, key, None, True, False,
    ]  # fmt: skip
    before = [sys.getrefcount(each) for each in watched]
    for _ in range(500):
        assert rig.ask()
        assert rig.answer(ANSWER)
        kept.client.data_received(REQUEST)
        assert kept.client_wire.take()
    after = [sys.getrefcount(each) for each in watched]
    grown = [(watched[i], after[i] - before[i]) for i in range(len(watched)) if after[i] - before[i] > 20]
    assert not grown


seconds = st.floats(0, 4e9) | st.floats(-10, 10) | st.sampled_from([0.0005, 0.0015, 1.0005, 0.9999995, 1e14, -0.0])
text = st.binary(max_size=300)


@given(
    st.lists(
        st.tuples(
            seconds, text, text, st.text(max_size=9), st.integers(0, 999), st.integers(0, 2**40), seconds, text, text
        ),
        max_size=5,
    )
)
def test_lines_are_alike(lines: list[tuple[Any, ...]]) -> None:
    assert quick.compiled is not None
    one, other = PythonLines(4), quick.compiled.Lines(4)
    for line in lines:
        one.add(*line)
        other.add(*line)
    assert one.dropped == other.dropped
    assert one.take() == other.take()
    assert other.take() == b""


def test_a_line_is_an_object_of_json() -> None:
    assert quick.compiled is not None
    lines = quick.compiled.Lines(9)
    head = check(b"GET", b'/"', [(b"Host", b"app.test")], {b"host": b"app.test"}, 1, keep_alive=True)
    lines.add(NOW, b"192.0.2.1", head.quote(), "app", 200, 3, 0.25, b"locci; hit", b"id-1")
    line = json.loads(lines.take())
    assert (line["time"], line["target"], line["duration_s"], line["app"]) == (NOW, '/"', 0.25, "app")


def test_classes_that_are_not_as_expected_are_refused() -> None:
    assert quick.compiled is not None
    classes = quick_path.CLASSES | {"counters": random.Random}
    with pytest.raises(AttributeError):
        quick.compiled.bind(classes, None, None, None, None, None, None, 0.0, 0.0, 0)
    with pytest.raises(TypeError):
        quick.compiled.bind({}, None, None, None, None, None, None, 0.0, 0.0, 0)
    assert quick_path.install()
    assert quick_path.CLASSES["counters"] is Counters
