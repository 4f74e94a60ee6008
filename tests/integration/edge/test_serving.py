from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


async def test_a_request_goes_to_a_replica_and_back(edge: Edge, origin: Origin) -> None:
    response = await fetch(edge.port, "/path?q=1", X_Mine="1")
    assert (response.status, response.body) == (200, b"hello\n")
    assert response.cache == "locci; fwd=uri-miss; detail=no-explicit-freshness"
    assert response.headers["via"] == "1.1 locci"
    assert "date" in response.headers
    seen = origin.seen[0]
    assert seen.target == "/path?q=1"
    assert seen.headers["x-mine"] == "1"
    assert seen.headers["host"] == "hello.test"
    assert seen.headers["x-request-id"] == response.headers["x-request-id"]
    assert seen.headers["cdn-loop"] == "locci"


async def test_what_clients_say_about_themselves_is_overwritten(edge: Edge, origin: Origin) -> None:
    await fetch(
        edge.port,
        X_Forwarded_For="6.6.6.6",
        Forwarded="for=6.6.6.6",
        X_Forwarded_Proto="https",
        X_Request_Id="abcdefgh-1",
        Connection="keep-alive, X-Secret",
        X_Secret="1",
        TE="trailers, gzip;q=0.5",
        Locci_Hop="1",
    )
    headers = origin.seen[0].headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["forwarded"] == 'for=127.0.0.1;host="hello.test";proto=http'
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-request-id"] == "abcdefgh-1"
    assert not {"x-secret", "locci-hop"} & headers.keys()
    assert (headers["te"], headers["connection"]) == ("trailers", "TE"), "what the edge itself wants for the client"


async def test_underscores_do_not_smuggle_a_header_that_the_edge_sets(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: hello.test\r\nX_Forwarded_For: 6.6.6.6\r\nmy_own: 1\r\n\r\n")
        await client.read()
    assert "x_forwarded_for" not in origin.seen[0].headers
    assert origin.seen[0].headers["my_own"] == "1"


async def test_connections_are_kept_on_both_sides(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        for _ in range(20):
            assert (await client.get()).status == 200
    assert origin.connections == 1


async def test_pipelined_requests_are_answered_in_order(edge: Edge, origin: Origin) -> None:
    async def slow_first(seen: Seen) -> None:
        if seen.target == "/0":
            await asyncio.sleep(0.1)
        headers = {"Cache_Control": "max-age=60"} if seen.target == "/2" else {}
        await seen.answer(200, seen.target.encode(), **headers)

    origin.handler = slow_first
    await fetch(edge.port, "/2")
    async with await Client.open(edge.port) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: hello.test\r\n\r\n" % n for n in range(60)))
        for number in range(60):
            response = await client.read()
            assert response.body == b"/%d" % number


async def test_head_has_no_body(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        for _ in range(3):
            response = await client.get(method="HEAD")
            assert (response.status, response.headers["content-length"]) == (200, "6")
        assert (await client.get()).body == b"hello\n"


async def test_http_1_0(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: hello.test\r\n\r\n")
        response = await client.read()
        assert response.headers["connection"] == "close"
        assert await client.closed()
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nHost: hello.test\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.read()).headers["connection"] == "keep-alive"


async def test_connection_close_is_honoured(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        response = await client.get(Connection="close")
        assert response.headers["connection"] == "close"
        assert await client.closed()


async def test_a_body_with_a_length(edge: Edge, origin: Origin) -> None:
    async def echo(seen: Seen) -> None:
        await seen.answer(200, seen.body)

    origin.handler = echo
    body = bytes(range(256)) * 8192
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            response = await client.get("/", "POST", body)
            assert response.body == body
    assert response.cache == "locci; fwd=method"


async def test_chunks_both_ways(edge: Edge, origin: Origin) -> None:
    async def chunked(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (seen.body[:3], seen.body[3:]):
            await seen.send(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0.02)
        await seen.send(b"0\r\nX-Trailer: 1\r\n\r\n")

    origin.handler = chunked
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            await client.send(b"POST / HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await asyncio.sleep(0.02)
            await client.send(b"4\r\ndefg\r\n0\r\nX-Trailer: evil\r\n\r\n")
            response = await client.read()
            assert response.body == b"abcdefg"
            assert response.headers["transfer-encoding"] == "chunked"
    assert origin.seen[0].headers["transfer-encoding"] == "chunked"
    assert "x-trailer" not in origin.seen[1].headers


async def test_a_stream_is_passed_on_as_it_comes(edge: Edge, origin: Origin) -> None:
    go_on = asyncio.Event()

    async def events(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        await seen.send(b"5\r\nfirst\r\n0\r\n\r\n")

    origin.handler = events
    async with await Client.open(edge.port) as client:
        await client.send(b"GET /events HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        async with asyncio.timeout(30):
            head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        go_on.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"5\r\nfirst\r\n0\r\n\r\n"


async def test_expect_100_continue(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        head = b"POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.read()).status == 200
    assert origin.seen[0].body == b"abc"
    assert "expect" not in origin.seen[0].headers


async def test_no_invitation_for_a_body_that_nobody_will_read(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: no.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        response = await client.read()
        assert (response.status, response.headers["connection"]) == (421, "close")


async def test_a_response_that_ends_with_its_connection(edge: Edge, origin: Origin) -> None:
    async def old(seen: Seen) -> None:
        await seen.send(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        seen.writer.close()

    origin.handler = old
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            assert (await client.get()).body == b"until the end"


@pytest.mark.parametrize("status", [204, 304, 404, 500, 301])
async def test_statuses_pass(edge: Edge, origin: Origin, status: int) -> None:
    async def answer(seen: Seen) -> None:
        body = b"" if status in (204, 304) else b"text"
        length = b"" if status in (204, 304) else b"Content-Length: 4\r\n"
        await seen.send(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length) + body)

    origin.handler = answer
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            assert (await client.get()).status == status


async def test_interim_responses_are_not_mistaken_for_the_answer(edge: Edge, origin: Origin) -> None:
    async def early(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    origin.handler = early
    response = await fetch(edge.port)
    assert (response.status, response.body) == (200, b"ok")
    assert "link" not in response.headers


async def test_an_unknown_host_is_told_so(edge: Edge) -> None:
    response = await fetch(edge.port, Host="other.test")
    assert response.status == 421
    assert b"no app here has the hostname other.test" in response.body
    assert (await fetch(edge.port, Host="HELLO.test.:80")).status == 200
    assert (await fetch(edge.port, Host="hello.test:8080")).status == 200


async def test_the_health_path(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge()
    path = "/.well-known/locci/health"
    assert (await fetch(edge.port, path)).status == 503
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    response = await fetch(edge.port, path, Host="10.1.2.3")
    assert response.status == 200
    assert json.loads(response.body) == {"node": "eu-1", "region": "eu", "generation": 1}
    assert response.headers["cache-control"] == "no-store"
    edge.worker.state.draining = True
    assert (await fetch(edge.port, path)).status == 503


async def test_absolute_form_overrides_host(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(b"GET http://hello.test/a?b HTTP/1.1\r\nHost: other.test\r\n\r\n")
        assert (await client.read()).status == 200
    assert origin.seen[0].target == "/a?b"
    assert origin.seen[0].headers["host"] == "hello.test"


async def test_loops_end(edge: Edge) -> None:
    assert (await fetch(edge.port, CDN_Loop="locci")).status == 200
    assert (await fetch(edge.port, CDN_Loop="locci, locci, other, locci, locci")).status == 508


async def test_a_slow_client_holds_the_origin_back(edge: Edge, origin: Origin) -> None:
    sent = 0

    async def large(seen: Seen) -> None:
        nonlocal sent
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        for _ in range(1024):
            await seen.send(b"x" * 65536)
            sent += 65536

    origin.handler = large
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    last = -1
    while last != sent:
        last = sent
        await asyncio.sleep(0.2)
    assert 0 < sent < 32 * 2**20
    received = 0
    while received < 67108864:
        received += len(await reader.read(2**20))
    writer.close()


@pytest.mark.parametrize("protocol", ["websocket", "example/1.0", "DERP"])
async def test_bytes_of_another_protocol_pass_both_ways(edge: Edge, origin: Origin, protocol: str) -> None:
    name = protocol.lower()

    async def switch(seen: Seen) -> None:
        assert seen.headers["upgrade"] == name
        await seen.send(f"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n\r\nhi".encode())
        while data := await seen.reader.read(1024):
            await seen.send(b"<" + data + b">")

    origin.handler = switch
    async with await Client.open(edge.port) as client:
        await client.send(
            f"GET /ws HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nearly".encode()
        )
        response = await client.read()
        assert (response.status, response.headers["upgrade"]) == (101, name)
        assert await client.reader.readexactly(9) == b"hi<early>"
        await client.send(b"later")
        assert await client.reader.readexactly(7) == b"<later>"
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_an_upgrade_that_is_not_known_is_ignored(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            response = await client.get(
                Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQ"
            )
            assert response.status == 200


async def test_a_version_of_http_is_not_switched_to_whatever_the_app_says(edge: Edge, origin: Origin) -> None:
    async def switch(seen: Seen) -> None:
        assert "upgrade" not in seen.headers
        await seen.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI")

    origin.handler = switch
    async with await Client.open(edge.port) as client:
        response = await client.get(Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQ")
        assert response.status == 502


async def test_the_access_log(make_edge: MakeEdge, origin: Origin) -> None:
    async def keep(seen: Seen) -> None:
        await seen.answer(200, b"kept", Cache_Control="max-age=60")

    origin.handler = keep
    edge = await make_edge("logged")
    from agent.edge.access_log import AccessLog

    edge.worker.state.access_log = AccessLog(str(edge.path / "access.log"), edge.worker.state.clock)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for _ in range(2):
        await fetch(edge.port, '/a"b')
    access_log = edge.worker.state.access_log
    await until(lambda: edge.worker.state.counters.plain_hits + edge.worker.state.counters.hits_total == 1)
    access_log.write(access_log.take())
    lines = [json.loads(line) for line in (edge.path / "access.log").read_text().splitlines()]
    assert [line["cache"] for line in lines] == ["locci; fwd=uri-miss; stored", "locci; hit"]
    assert lines[0]["target"] == '/a"b'
    assert lines[0]["app"] == "hello"
    assert lines[0]["bytes"] == 4
