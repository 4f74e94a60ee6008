"""What is passed on over a connection that is ready, without a task: the second request on each of these."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agent.edge import quick, quick_path
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(params=["compiled", "parser"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the compiled part and without it."""
    if request.param == "parser":
        monkeypatch.setattr(quick, "rewritten", None)
        quick_path.remove()
    elif quick.compiled is None:
        pytest.skip("no compiler was there when the project was installed")
    yield
    quick_path.install()


async def various(seen: Seen) -> None:
    match seen.target:
        case "/empty":
            await seen.answer(200, b"")
        case "/204":
            await seen.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        case "/304":
            await seen.send(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n')
        case "/chunked":
            await seen.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await seen.send(b"2\r\nde\r\n0\r\n\r\n")
        case "/interim":
            await seen.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await seen.answer(200, b"after")
        case "/large":
            await seen.answer(200, bytes(range(256)) * 12_000)
        case "/until-close":
            await seen.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end")
            seen.writer.close()
        case target:
            await seen.answer(200, target.encode())


async def warm(edge: Edge, client: Client, target: str) -> None:
    """Leaves a connection that is ready, and a target that is known to be no use to the cache."""
    await client.get(target)
    assert edge.worker.state.is_uncacheable(b"http://hello.test" + target.encode())


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/plain", 200, b"/plain"),
        ("/empty", 200, b""),
        ("/204", 204, b""),
        ("/304", 304, b""),
        ("/chunked", 200, b"abcde"),
        ("/interim", 200, b"after"),
        ("/large", 200, bytes(range(256)) * 12_000),
        ("/until-close", 200, b"to the end"),
    ],
)
async def test_responses_of_every_shape(edge: Edge, origin: Origin, target: str, status: int, body: bytes) -> None:
    origin.handler = various
    async with await Client.open(edge.port) as client:
        for _ in range(4):
            response = await client.get(target)
            assert (response.status, response.body, response.whole) == (status, body, True)
            assert response.headers["via"] == "1.1 locci"
            assert response.headers["x-request-id"] == origin.seen[-1].headers["x-request-id"]
        head = await client.get(target, "HEAD") if target not in ("/204", "/until-close", "/304", "/chunked") else None
        assert head is None or head.status == status
        assert (await client.get("/last")).body == b"/last"
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_pipelined_requests_keep_their_order(edge: Edge, origin: Origin) -> None:
    origin.handler = various
    async with await Client.open(edge.port) as client:
        await warm(edge, client, "/plain")
        targets = ["/plain", "/large", "/plain", "/chunked", "/other", "/plain"] * 5
        await client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: hello.test\r\n\r\n" % t.encode() for t in targets))
        for target in targets:
            body = {"/large": bytes(range(256)) * 12_000, "/chunked": b"abcde"}.get(target, target.encode())
            assert (await client.read()).body == body


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_off_is_seen_to_be(edge: Edge, origin: Origin, framing: bytes) -> None:
    cut = False

    async def cutting(seen: Seen) -> None:
        if not cut:
            await seen.answer(200, b"whole")
            return
        await seen.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n3\r\nabc\r\n" % framing)
        seen.writer.transport.abort()

    origin.handler = cutting
    async with await Client.open(edge.port) as client:
        await warm(edge, client, "/")
        cut = True
        assert not (await client.get()).whole
    assert edge.counters.truncated_total == 1
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_a_connection_that_dies_under_the_request_costs_nothing(edge: Edge, origin: Origin) -> None:
    async def reset_the_second(seen: Seen) -> None:
        if seen.target == "/" and len([s for s in origin.seen if s.writer is seen.writer]) == 2:
            seen.writer.transport.abort()
            return
        await seen.answer(200, b"ok")

    origin.handler = reset_the_second
    async with await Client.open(edge.port) as client:
        for _ in range(6):
            assert (await client.get()).body == b"ok"
    endpoint = edge.worker.state.endpoints[origin.address]
    assert (endpoint.ejections, endpoint.outstanding) == (0, 0)


async def test_nonsense_is_502_and_silence_goes_to_the_next(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("mixed", upstream_timeout_s=0.5)
    nonsense = False

    async def odd(seen: Seen) -> None:
        if nonsense:
            await seen.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            return
        await seen.answer(200, b"ok")

    origin.handler = odd
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await Client.open(edge.port) as client:
        await warm(edge, client, "/")
        nonsense = True
        response = await client.get()
        assert response.status == 502
        assert response.headers["x-request-id"]
    nonsense = False
    silent = asyncio.Event()
    other = await Origin().start()

    async def falls_silent(seen: Seen) -> None:
        if silent.is_set():
            await asyncio.sleep(30)
        await seen.answer(200, b"ok")

    origin.handler = other.handler = falls_silent
    await edge.serve(route("hello", ["hello.test"], [origin.address, other.address]))
    async with await Client.open(edge.port) as client:
        await until(lambda: edge.worker.state.endpoints[origin.address].available(edge.worker.state.clock.monotonic()))
        while not (origin.seen and other.seen):
            await client.get()
        silent.set()
        other.handler = various
        for _ in range(8):
            assert (await client.get()).status == 200
    await other.stop()


async def test_a_slow_client_holds_the_endpoint_back(edge: Edge, origin: Origin) -> None:
    sent, size = 0, 64 * 2**20

    async def large(seen: Seen) -> None:
        nonlocal sent
        if seen.target == "/small":
            await seen.answer(200, b"ok")
            return
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await seen.send(b"x" * 65536)
            sent += 65536

    origin.handler = large
    edge.worker.state.mark_uncacheable(b"http://hello.test/")
    await fetch(edge.port, "/small")
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    last = -1
    while last != sent:
        last = sent
        await asyncio.sleep(0.2)
    assert 0 < sent < size // 2
    received = 0
    while received < size:
        received += len(await reader.read(2**20))
    writer.close()


async def test_a_client_that_leaves_ends_it(edge: Edge, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        if seen.target == "/slow":
            await asyncio.sleep(30)
        await seen.answer(200, b"ok")

    origin.handler = slow
    endpoint = edge.worker.state.endpoints[origin.address]
    await fetch(edge.port, "/")
    edge.worker.state.mark_uncacheable(b"http://hello.test/slow")
    client = await Client.open(edge.port)
    await client.send(b"GET /slow HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await until(lambda: endpoint.outstanding == 1)
    client.reset()
    await until(lambda: endpoint.outstanding == 0)
    assert (await fetch(edge.port, "/")).status == 200


async def test_ids_and_traces_on_every_way(edge: Edge, origin: Origin) -> None:
    async def keep(seen: Seen) -> None:
        await seen.answer(200, b"ok", Cache_Control="max-age=60" if seen.target == "/kept" else "no-store")

    origin.handler = keep
    async with await Client.open(edge.port) as client:
        kept = [(await client.get("/kept")).headers["x-request-id"] for _ in range(3)]
        passed = [(await client.get("/passed")).headers["x-request-id"] for _ in range(3)]
        assert len({*kept, *passed}) == 6
        assert (await client.get("/kept", X_Request_Id="mine-12345")).headers["x-request-id"] == "mine-12345"
        traces = {seen.headers["traceparent"] for seen in origin.seen}
        assert len(traces) == len(origin.seen) == 4
        for _ in range(2):
            await client.get("/passed", traceparent=TRACE, tracestate="a=b", X_Request_Id="mine-67890")
            headers = origin.seen[-1].headers
            assert (headers["traceparent"], headers["tracestate"]) == (TRACE, "a=b")
            assert headers["x-request-id"] == "mine-67890"
            await client.get("/passed", traceparent="nonsense", tracestate="a=b")
            assert "tracestate" not in origin.seen[-1].headers
            assert len(origin.seen[-1].headers["traceparent"]) == 55
