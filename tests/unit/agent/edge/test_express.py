"""What is passed on the shortest way, byte by byte the same as by the parser and the rules in Python."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.edge import quick, quick_path
from agent.edge.access_log import AccessLog
from agent.edge.core.headers import HOP_BY_HOP
from agent.edge.core.routing import Local, Route, table
from agent.edge.downstream import ClientConnection
from agent.edge.exchange import RELAY_DROPPED, Exchange
from agent.edge.fetcher import Fetcher
from agent.edge.filler import Filler
from agent.edge.listener import Listener
from agent.edge.peers import PeerTls
from agent.edge.pool import Pool
from agent.edge.responder import Request
from agent.edge.settings import EdgeSettings
from agent.edge.state import EdgeState
from agent.edge.upstream import UpstreamConnection
from fleet.clock import SystemClock

compiled = quick.compiled
needs_compiled = pytest.mark.skipif(compiled is None, reason="no compiler was there when the project was installed")
ADDRESS = "127.0.0.1:9"
REQUEST = b"GET /a HTTP/1.1\r\nHost: app.test\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.closing = self.aborted = self.ended = False
        self.paused = False

    def write(self, data: bytes) -> None:
        self.out += data

    def writelines(self, parts: list[bytes]) -> None:
        self.out += b"".join(parts)

    def take(self) -> bytes:
        out, self.out = self.out, b""
        return out

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0


class StoppedClock(SystemClock):
    def wall(self) -> float:
        return 1_700_000_000.5


class Rig:
    """One client and one connection to a replica, on a loop that does not run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, **fields: Any):
        settings = EdgeSettings(run_dir=path, state_dir=path)
        self.loop = loop
        self.state = EdgeState(settings, StoppedClock(), random.Random(1), None)
        self.state._request_prefix = b"0123456789abcdef"
        self.state.access_log = AccessLog("-", StoppedClock())
        self.state.apply(
            table(
                1,
                "n",
                "r",
                "",
                "",
                (Route("app", ("app.test",), False, 1, (Local("r/1", ADDRESS, False),), (), **fields),),
            )
        )
        self.pool = Pool(loop, 1.0, PeerTls())
        fetcher = Fetcher(self.state, self.pool)
        self.listener = Listener(self.state, Exchange(self.state, fetcher, Filler(self.state, fetcher)), loop)
        self.client, self.client_wire = ClientConnection(self.listener), Wire()
        self.client.connection_made(cast(asyncio.Transport, self.client_wire))
        self.replica, self.replica_wire = UpstreamConnection(ADDRESS, loop), Wire()
        self.replica.connection_made(cast(asyncio.Transport, self.replica_wire))
        self.replica.rest(loop.time())
        self.pool.keep(self.replica)

    def ask(self, request: bytes = REQUEST) -> bytes:
        """Sends a request; returns what the replica gets."""
        self.client.data_received(request)
        return self.replica_wire.take()

    def answer(self, *pieces: bytes) -> bytes:
        """What the client gets for this."""
        for piece in pieces:
            if not self.replica_wire.aborted:
                self.replica.data_received(piece)
        return self.client_wire.take()

    def facts(self) -> tuple[Any, ...]:
        """What else must be the same, whichever way was taken."""
        counters, endpoint = self.state.counters, self.state.endpoints[ADDRESS]
        lines = self.state.access_log.take() if self.state.access_log is not None else b""
        return (
            dict(counters.items()),
            (endpoint.outstanding, endpoint.server_errors, endpoint.ejections),
            [json.loads(line) | {"time": 0, "duration_s": 0} for line in lines.splitlines()],
            (self.client_wire.closing, self.replica_wire.aborted, self.client.busy),
            len(self.pool.kept.get(ADDRESS, ())),
        )


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


WAYS = ("python", "rewritten", "compiled")
"""With nothing compiled, with heads rewritten only, with all of it."""


class NeedsTaskError(Exception):
    """The request needs a task, which a loop that does not run has not got."""


def without_task(_: ClientConnection, __: Request) -> NoReturn:
    raise NeedsTaskError


@contextlib.contextmanager
def going(way: str) -> Iterator[None]:
    """Requests go that way."""
    before, serve = quick.rewritten, ClientConnection._serve
    ClientConnection._serve = without_task  # type: ignore[method-assign, assignment]
    quick.rewritten = None if way == "python" or compiled is None else compiled.rewritten
    if way == "compiled":
        quick_path.install()
    else:
        quick_path.remove()
    try:
        yield
    finally:
        quick.rewritten = before
        ClientConnection._serve = serve  # type: ignore[method-assign]
        quick_path.install()


def outcome(loop: asyncio.AbstractEventLoop, pieces: list[bytes], *, way: str, **fields: Any) -> tuple[Any, ...]:
    """What the replica and the client get, two requests in a row, and all facts."""
    with going(way):
        rig = Rig(loop, Path("/nowhere"), **fields)
        asked = rig.ask()
        got = rig.answer(*pieces)
        after = [(rig.ask(), rig.answer(ANSWER)) for _ in range(3) if rig.pool.kept.get(ADDRESS)]
        return asked, got, after, rig.facts()


names = st.sampled_from(
    [b"Date", b"VIA", b"via", b"Cache-Status", b"Content-Length", b"content-length", b"Connection", b"Keep-Alive",
     b"X-Request-Id", b"Transfer-Encoding", b"Upgrade", b"Trailer", b"TE", b"Set-Cookie", b"ETag", b"X-Other",
     b"Proxy-Authenticate", b"Proxy-Connection", b"Locci-Hop", b"Content-Typ", b"Dates", b"", b"a b", b"\xe4"]
)  # fmt: skip
values = st.one_of(
    st.sampled_from([b"", b"3", b"0", b"03", b"+3", b"3, 3", b"keep-alive", b"close", b"Keep-Alive", b"x-other",
                     b"chunked",
                     b"Sat, 28 Nov 2026 22:48:49 GMT", b"1.0 other", b"other; hit", b" 3", b"3 ", b"\t", b"99"]),
    st.binary(max_size=12),
)  # fmt: skip
colons = st.sampled_from([b": ", b": ", b": ", b": ", b":", b":  ", b" : "])
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n "])
starts = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 No", b"HTTP/1.1 503 No",
     b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Go", b"HTTP/1.1 204 No", b"HTTP/1.1 304 No",
     b"HTTP/1.1 101 S",
     b"HTTP/1.1 600 X", b"HTTP/1.1 2000 X", b"http/1.1 200 OK", b"HTTP/1.1 200 \xff", b"HTTP/1.1 200 \x01", b""]
)  # fmt: skip


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(st.tuples(names, colons, values, ends), max_size=6))
    if draw(st.integers(0, 3)):
        fields.insert(draw(st.integers(0, len(fields))), (b"Content-Length", b": ", b"3", b"\r\n"))
    head = draw(starts) + draw(ends) + b"".join(b"".join(field) for field in fields) + b"\r\n"
    return head + draw(st.sampled_from([b"abc", b"abc", b"", b"a", b"abcd", b"3\r\nabc\r\n0\r\n\r\n"]))


def test_it_was_built_where_it_could_be() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    assert compiled is not None or shutil.which("cc") is None or not headers.exists(), "the compiled part was not built"


@needs_compiled
@settings(max_examples=150, deadline=None)
@given(response=responses(), cuts=st.lists(st.integers(0, 200), max_size=2))
def test_both_ways_give_the_same(loop: asyncio.AbstractEventLoop, response: bytes, cuts: list[int]) -> None:
    at = sorted({0, len(response), *(cut % (len(response) + 1) for cut in cuts)})
    pieces = [response[first:last] for first, last in itertools.pairwise(at)]
    found: list[tuple[Any, ...] | None] = []
    for way in WAYS:
        try:
            found.append(outcome(loop, pieces, way=way))
        except NeedsTaskError:
            found.append(None)
    assert found[0] == found[1] == found[2]


@needs_compiled
@pytest.mark.parametrize("name", sorted(RELAY_DROPPED | HOP_BY_HOP | {b"date", b"via", b"cache-status"}))
def test_each_field_that_is_not_simply_passed_on(loop: asyncio.AbstractEventLoop, name: bytes) -> None:
    for spelt, value in itertools.product((name, name.title(), name.upper()), (b"x", b"close", b"keep-alive", b"3")):
        response = b"HTTP/1.1 200 OK\r\n%b: %b\r\nA: b\r\nContent-Length: 3\r\n\r\nabc" % (spelt, value)
        usual, *others = (outcome(loop, [response], way=way) for way in WAYS)
        assert others == [usual, usual], (spelt, value)


@needs_compiled
def test_the_common_kind_is_taken() -> None:
    assert compiled is not None
    head = b"HTTP/1.1 200 OK\r\nServer: x\r\nvia: 1.0 a\r\nConnection: keep-alive\r\nContent-Length: 5\r\nX-A: \r\n\r\n"
    assert compiled.rewritten(head + b"abc", b"locci; fwd=miss", b"id-1", b"DATE") == (
        b"HTTP/1.1 200 OK\r\nServer: x\r\nX-A: \r\nDate: DATE\r\nVia: 1.0 a, 1.1 locci\r\n"
        b"Cache-Status: locci; fwd=miss\r\nX-Request-Id: id-1\r\nContent-Length: 5\r\n\r\nabc",
        200,
        5,
        3,
    )
    for cut in range(len(head)):
        assert compiled.rewritten(head[:cut], b"m", b"i", b"d") is None
    with pytest.raises(TypeError):
        compiled.rewritten(head, b"m", "i", b"d")


@needs_compiled
@given(st.binary(max_size=300))
def test_any_bytes_are_borne(data: bytes) -> None:
    assert compiled is not None
    compiled.rewritten(data, b"m", b"i", b"d")
    compiled.rewritten(b"HTTP/1.1 200 OK\r\n" + data, b"m", b"i", b"d")


@needs_compiled
def test_the_second_request_goes_the_same_way_on_the_same_connection(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    rig = Rig(loop, tmp_path)
    for _ in range(3):
        asked = rig.ask()
        assert asked.startswith(b"GET /a HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.1\r\n")
        assert rig.client.busy
        assert rig.answer(ANSWER).endswith(b"\r\n\r\nabc")
    assert not rig.client.busy
    assert rig.state.counters.plain_passes == 3
    assert len(rig.pool.kept[ADDRESS]) == 1


@needs_compiled
def test_requests_that_came_together_are_answered_in_their_order(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    rig = Rig(loop, tmp_path)
    rig.ask()
    rig.answer(ANSWER)
    rig.client.data_received(REQUEST.replace(b"/a", b"/1") + REQUEST.replace(b"/a", b"/2"))
    assert rig.replica_wire.take().startswith(b"GET /1 ")
    assert rig.answer(ANSWER)
    assert rig.replica_wire.take().startswith(b"GET /2 ")
    assert rig.answer(ANSWER)


@needs_compiled
def test_a_client_that_goes_takes_its_connection_to_the_replica_along(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    rig = Rig(loop, tmp_path)
    rig.ask()
    rig.client.connection_lost(None)
    assert rig.replica_wire.aborted
    assert rig.state.endpoints[ADDRESS].outstanding == 0


@needs_compiled
def test_a_client_that_is_full_holds_the_replica_back(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    rig = Rig(loop, tmp_path)
    rig.ask()
    rig.client.pause_writing()
    assert rig.replica_wire.paused
    rig.client.resume_writing()
    assert not rig.replica_wire.paused
    assert rig.answer(ANSWER).endswith(b"abc")


@needs_compiled
def test_bytes_behind_the_response_end_the_connection(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    rig = Rig(loop, tmp_path)
    rig.ask()
    rig.answer(ANSWER)
    rig.replica.data_received(ANSWER)
    assert rig.replica_wire.aborted, "the next response could be forged by them"


@needs_compiled
def test_a_worker_that_drains_says_so(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    rig = Rig(loop, tmp_path)
    rig.ask()
    rig.state.draining = True
    assert b"Connection: close" in rig.answer(ANSWER)
    assert rig.client_wire.ended


@needs_compiled
def test_of_several_replicas_one_that_is_ready_is_asked(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    rig = Rig(loop, tmp_path)
    other = "127.0.0.1:10"
    locals_ = (Local("r/1", ADDRESS, False), Local("r/2", other, False), Local("r/3", "127.0.0.1:11", True))
    rig.state.apply(table(2, "n", "r", "", "", (Route("app", ("app.test",), False, 1, locals_, ()),)))
    second, wire = UpstreamConnection(other, loop), Wire()
    second.connection_made(cast(asyncio.Transport, wire))
    second.rest(loop.time())
    rig.pool.keep(second)
    asked = {b"first": 0, b"second": 0}
    for _ in range(40):
        rig.client.data_received(REQUEST)
        if wire.take():
            asked[b"second"] += 1
            second.data_received(ANSWER)
        else:
            assert rig.replica_wire.take()
            asked[b"first"] += 1
            rig.replica.data_received(ANSWER)
        assert rig.client_wire.take().endswith(b"abc")
    assert min(asked.values()) > 0
    assert rig.state.counters.plain_passes == 40
