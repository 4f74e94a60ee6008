from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agent.edge.admin import Admin
from agent.edge.core.routing import Local, Route, table
from agent.edge.settings import EdgeSettings
from agent.edge.state import EdgeState
from fleet.clock import SystemClock


@pytest.fixture
def state(tmp_path: Path) -> EdgeState:
    return EdgeState(EdgeSettings(run_dir=tmp_path, state_dir=tmp_path), SystemClock(), random.Random(1), None)


def ask(state: EdgeState, line: bytes) -> tuple[int, bytes]:
    head, _, body = Admin(state).answer(line + b"\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    return int(head.split()[1]), body


def test_ready_is_who_has_something_to_serve(state: EdgeState) -> None:
    assert ask(state, b"GET /healthz HTTP/1.1")[0] == 503
    state.apply(
        table(1, "n", "r", "", "", (Route("app", ("a.test",), True, 1, (Local("r", "127.0.0.1:1", False),), ()),))
    )
    assert ask(state, b"GET /healthz HTTP/1.1") == (200, b'{"ready": true, "draining": false}')
    assert json.loads(ask(state, b"GET /config?x HTTP/1.0")[1])["routes"][0]["app"] == "app"
    state.draining = True
    assert ask(state, b"HEAD /healthz HTTP/1.1") == (503, b"")


async def test_metrics(state: EdgeState) -> None:
    state.counters.plain_hits += 2
    state.counters.plain_passes += 3
    status, body = ask(state, b"GET /metrics HTTP/1.1")
    assert status == 200
    for line in (b"locci_edge_requests_total 5.0", b"locci_edge_hits_total 2.0", b"locci_edge_misses_total 3.0"):
        assert line in body


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET /metrics", 400),
        (b"", 400),
        (b"\xff \0 ", 400),
    ],
)
def test_what_it_does_not_answer(state: EdgeState, line: bytes, status: int) -> None:
    assert ask(state, line)[0] == status
