from __future__ import annotations

import asyncio
import socket

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


async def test_a_replica_that_refuses_costs_no_request(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge()
    dead = closed_port()
    await edge.serve(route("hello", ["hello.test"], [dead, origin.address]))
    for _ in range(20):
        assert (await fetch(edge.port)).status == 200
    assert (await fetch(edge.port, "/", "POST", b"body")).status == 200
    assert origin.seen[-1].body == b"body"
    assert edge.counters.retries_total <= 3, "it is left out after the first failure"


async def test_all_dead(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [closed_port(), closed_port()]))
    async with await Client.open(edge.port) as client:
        for method in ("GET", "POST", "HEAD"):
            response = await client.get("/", method, b"x" if method == "POST" else None)
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
            assert method == "HEAD" or b"no healthy replica of hello in any region" in response.body


async def test_no_replicas_at_all(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], []))
    assert (await fetch(edge.port)).status == 503


async def test_a_replica_that_comes_back_is_used_again(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    port = origin.port
    await origin.stop()
    assert (await fetch(edge.port)).status == 503
    await origin.start(port)
    assert (await fetch(edge.port)).status == 200, "the last resort is tried although it is ejected"


async def cut(seen: Seen) -> None:
    """Ends in the middle of whatever it has begun."""
    kind = seen.target
    if kind == "/length":
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    elif kind == "/chunked":
        await seen.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    elif kind == "/stored":
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nabc")
    elif kind == "/head":
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.sleep(0.05)
    seen.writer.transport.abort()


async def test_a_client_sees_that_the_end_is_missing(edge: Edge, origin: Origin) -> None:
    origin.handler = cut
    for target in ("/length", "/chunked", "/stored"):
        for _ in range(2):
            response = await fetch(edge.port, target)
            assert (response.status, response.whole) == (200, False), target
    assert edge.counters.truncated_total >= 6
    assert len(edge.worker.state.store) == 0, "nothing that is cut short is stored"


async def test_a_client_of_http_1_0_sees_a_reset(edge: Edge, origin: Origin) -> None:
    origin.handler = cut
    async with await Client.open(edge.port) as client:
        await client.send(b"GET /chunked HTTP/1.0\r\nHost: hello.test\r\n\r\n")
        try:
            await client.reader.read()
        except ConnectionResetError:
            return
    raise AssertionError("a clean end")


async def test_a_head_that_is_cut_off(edge: Edge, origin: Origin) -> None:
    origin.handler = cut
    response = await fetch(edge.port, "/head")
    assert response.status == 502


async def test_garbage_from_a_replica(edge: Edge, origin: Origin) -> None:
    answers = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    ]
    for answer in answers:

        async def garbage(seen: Seen, answer: bytes = answer) -> None:
            await seen.send(answer)

        origin.handler = garbage
        assert (await fetch(edge.port)).status == 502, answer[:60]


async def test_bytes_that_nobody_asked_for_never_answer_the_next(edge: Edge, origin: Origin) -> None:
    async def twice(seen: Seen) -> None:
        await seen.answer(200, seen.target.encode())
        await seen.answer(200, b"forged")

    origin.handler = twice
    async with await Client.open(edge.port) as client:
        for number in range(10):
            response = await client.get(f"/{number}")
            assert response.body == b"/%d" % number


async def test_a_kept_connection_that_was_closed_meanwhile(edge: Edge, origin: Origin) -> None:
    async def once(seen: Seen) -> None:
        await seen.answer(200, b"ok")
        seen.writer.close()

    origin.handler = once
    async with await Client.open(edge.port) as client:
        for number in range(20):
            method = "POST" if number % 2 else "GET"
            response = await client.get("/", method, b"x" if method == "POST" else None)
            assert response.status == 200
            await asyncio.sleep(0.005)


async def test_what_may_not_be_done_twice_is_not(make_edge: MakeEdge, origin: Origin) -> None:
    other = await Origin().start()
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address, other.address]))
    got = 0

    async def die(seen: Seen) -> None:
        nonlocal got
        got += 1
        seen.writer.transport.abort()

    origin.handler = other.handler = die
    assert (await fetch(edge.port, "/", "POST", b"pay")).status == 502
    assert got == 1
    assert (await fetch(edge.port, "/", "GET")).status == 502
    assert got == 3
    await other.stop()


async def test_a_replica_that_says_nothing(make_edge: MakeEdge, origin: Origin) -> None:
    async def silent(seen: Seen) -> None:
        await asyncio.sleep(30)

    origin.handler = silent
    edge = await make_edge("silent", upstream_timeout_s=0.4)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    response = await fetch(edge.port, "/", "POST", b"x")
    assert response.status == 504


async def test_an_early_answer_to_a_long_upload(edge: Edge, origin: Origin) -> None:
    server_saw = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        server_saw.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await edge.serve(route("hello", ["hello.test"], [f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]))
    async with await Client.open(edge.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 1000)
        response = await client.read()
        assert (response.status, response.body) == (403, b"no")
        assert response.headers["connection"] == "close"
    server.close()


async def test_a_client_that_leaves_ends_its_request(edge: Edge, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        await asyncio.sleep(30)

    origin.handler = slow
    client = await Client.open(edge.port)
    await client.send(b"POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 1\r\n\r\nx")
    endpoints = edge.worker.state.endpoints
    await until(lambda: endpoints[origin.address].outstanding == 1)
    client.reset()
    await until(lambda: endpoints[origin.address].outstanding == 0)


async def test_a_client_that_has_only_closed_its_side_gets_the_answer(edge: Edge, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        await asyncio.sleep(0.2)
        await seen.answer(200, b"late")

    origin.handler = slow
    async with await Client.open(edge.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        client.writer.write_eof()
        assert (await client.read()).body == b"late"
        assert await client.closed()
