from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.sse import EventParser, ServerEvent

STREAM = (
    b": stream\n\nid: 7\ndata: {}\n\n: heartbeat\n\nevent: end\r\ndata: a\r\ndata: b\r\n\r\nid: 8\n\ndata: \xc3\xa9\n\n"
)
EVENTS = [ServerEvent("message", "{}", "7"), ServerEvent("end", "a\nb", "7"), ServerEvent("message", "é", "8")]


def test_events() -> None:
    assert EventParser().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_however_the_stream_is_cut(cuts: list[int]) -> None:
    parser, edges = EventParser(), [0, *sorted(cuts), len(STREAM)]
    found = [event for start, end in itertools.pairwise(edges) for event in parser.feed(STREAM[start:end])]
    assert found == EVENTS


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.sse.EVENT_BYTES_MAX", 10)
    with pytest.raises(ValueError, match="too large"):
        EventParser().feed(b"data: 0123456789")
