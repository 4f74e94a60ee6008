"""Requests that two readers could understand differently: each is refused and the connection closed."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material

H = b"Host: hello.test\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n" + H
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + H + b"\r\n"

CASES = {
    "two different lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "length list": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "length with sign": POST + b"Content-Length: +5\r\n\r\nabcde",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nabcde",
    "empty length": POST + b"Content-Length: \r\n\r\n",
    "length that overflows": POST + b"Content-Length: 18446744073709551621\r\n\r\nabcde",
    "length and chunked": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "vertical tab in coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x5\r\nabcde\r\n0\r\n\r\n",
    "chunk size that overflows": CHUNKED + b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "chunk size with sign": CHUNKED + b"+5\r\nabcde\r\n0\r\n\r\n",
    "chunk without its end": CHUNKED + b"5\r\nabcdeXX0\r\n\r\n",
    "chunk with a bare line feed": CHUNKED + b"5\nabcde\n0\n\n",
    "chunk longer than it says": CHUNKED + b"3\r\nabcde\r\n0\r\n\r\n",
    "no host": GET + b"\r\n",
    "two hosts": GET + H + H + b"\r\n",
    "host with a path": GET + b"Host: hello.test/x\r\n\r\n",
    "host with a user": GET + b"Host: evil@hello.test\r\n\r\n",
    "host list": GET + b"Host: hello.test, evil.test\r\n\r\n",
    "empty host": GET + b"Host:\r\n\r\n",
    "host with a space": GET + b"Host: hello.test evil\r\n\r\n",
    "folded line": GET + H + b"X: a\r\n b\r\n\r\n",
    "folded first line": GET + b" Host: hello.test\r\n\r\n",
    "zero byte in a value": GET + H + b"X: a\0b\r\n\r\n",
    "carriage return in a value": GET + H + b"X: a\rb\r\n\r\n",
    "line feed in a value": GET + H + b"X: a\nY: b\r\n\r\n",
    "control character in a value": GET + H + b"X: a\x01b\r\n\r\n",
    "empty name": GET + H + b": x\r\n\r\n",
    "name with a space": GET + H + b"X Y: x\r\n\r\n",
    "line without a colon": GET + H + b"X\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: hello.test\n\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + H + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + H + b"\r\n",
    "HTTP/11.1": b"GET / HTTP/11.1\r\n" + H + b"\r\n",
    "lower-case version": b"GET / http/1.1\r\n" + H + b"\r\n",
    "connection preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown method": b"GE\x00T / HTTP/1.1\r\n" + H + b"\r\n",
    "lower-case method": b"get / HTTP/1.1\r\n" + H + b"\r\n",
    "fragment": b"GET /#x HTTP/1.1\r\n" + H + b"\r\n",
    "backslash": b"GET /\\evil HTTP/1.1\r\n" + H + b"\r\n",
    "bytes above ASCII": b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n",
    "target without a slash": b"GET hello HTTP/1.1\r\n" + H + b"\r\n",
    "another scheme": b"GET ftp://hello.test/ HTTP/1.1\r\n" + H + b"\r\n",
    "asterisk with GET": b"GET * HTTP/1.1\r\n" + H + b"\r\n",
    "CONNECT": b"CONNECT hello.test:80 HTTP/1.1\r\n" + H + b"\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\n" + H + b"\r\n",
    "upgrade with a body": POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nabcde",
    "expectation that nobody knows": POST + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nabcde",
}


@pytest.mark.parametrize("request_bytes", CASES.values(), ids=CASES.keys())
async def test_refused(edge: Edge, origin: Origin, request_bytes: bytes) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(request_bytes + SMUGGLED)
        response = await client.read()
        assert 400 <= response.status < 600
        assert response.status in (400, 405, 417, 501, 505)
        assert response.headers["connection"] == "close"
        assert response.body
        assert await client.closed(), "nothing behind a refused request is answered"
    assert not [seen for seen in origin.seen if seen.target == "/smuggled"]
    assert (await fetch(edge.port)).status == 200, "the worker goes on"


@pytest.mark.parametrize("request_bytes", CASES.values(), ids=CASES.keys())
async def test_refused_byte_by_byte(edge: Edge, origin: Origin, request_bytes: bytes) -> None:
    async with await Client.open(edge.port) as client:
        for position in range(len(request_bytes)):
            client.writer.write(request_bytes[position : position + 1])
            await asyncio.sleep(0)
        await client.send(SMUGGLED)
        assert (await client.read()).status in (400, 405, 417, 501, 505)
    assert not [seen for seen in origin.seen if seen.target == "/smuggled"]


async def test_requests_before_a_bad_one_are_answered(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        await client.send((GET + H + b"\r\n") * 3 + GET + H + H + b"\r\n" + SMUGGLED)
        assert [(await client.read()).status for _ in range(4)] == [200, 200, 200, 400]
        assert await client.closed()


async def test_bytes_after_close_are_not_a_request(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(GET + H + b"Connection: close\r\n\r\n" + SMUGGLED)
        assert (await client.read()).status == 200
        assert await client.closed()
    assert [seen.target for seen in origin.seen] == ["/"]


async def test_empty_lines_before_a_request_are_ignored(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(b"\r\n\r\n" + GET + H + b"\r\n")
        assert (await client.read()).status == 200


async def test_an_ignored_upgrade_leaves_no_bytes_behind(edge: Edge, origin: Origin) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(GET + H + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GET + H + b"\r\n")
        assert [(await client.read()).status for _ in range(2)] == [200, 200]
    assert len(origin.seen) == 2


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
        (GET + H + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (GET + H + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", 431),
        (POST + b"Content-Length: 100000000\r\n\r\n", 413),
        (GET + H + b"X: " + b"a" * 400_000, 431),
        (b"GET /" + b"a" * 400_000, 414),
    ],
    ids=["long target", "long field", "many fields", "large body", "field without end", "target without end"],
)
async def test_too_large(edge: Edge, request_bytes: bytes, status: int) -> None:
    async with await Client.open(edge.port) as client:
        await client.send(request_bytes)
        response = await client.read()
        assert response.status == status
        assert response.headers["connection"] == "close"
        assert await client.closed()


async def test_a_chunked_body_that_grows_too_large(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("small", max_body_bytes=1000)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await Client.open(edge.port) as client:
        await client.send(CHUNKED + b"200\r\n" + b"a" * 512 + b"\r\n")
        await client.send(b"200\r\n" + b"a" * 512 + b"\r\n0\r\n\r\n")
        response = await client.read()
        assert response.status == 413
        assert await client.closed()
    assert not origin.seen


async def test_a_slow_head(make_edge: MakeEdge) -> None:
    edge = await make_edge("slow", header_timeout_s=0.3)
    async with await Client.open(edge.port) as client:
        await client.send(GET + b"Host: hel")
        response = await client.read()
        assert response.status == 408
        assert await client.closed()


async def test_a_head_that_trickles(make_edge: MakeEdge) -> None:
    edge = await make_edge("trickle", header_timeout_s=0.5)
    async with await Client.open(edge.port) as client:
        await client.send(GET + b"X: ")
        reading = asyncio.ensure_future(client.read())
        for _ in range(100):
            if reading.done():
                break
            client.writer.write(b"a")
            await asyncio.sleep(0.02)
        assert (await reading).status == 408


async def test_a_slow_body(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("body", body_rate_min=1000, body_rate_window_s=0.4)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await Client.open(edge.port) as client:
        await client.send(POST + b"Content-Length: 1000\r\n\r\n")
        reading = asyncio.ensure_future(client.read())
        for _ in range(200):
            if reading.done():
                break
            client.writer.write(b"a")
            await asyncio.sleep(0.02)
        assert (await reading).status == 408
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_an_idle_connection_is_closed(make_edge: MakeEdge) -> None:
    edge = await make_edge("idle", idle_timeout_s=0.3)
    async with await Client.open(edge.port) as client:
        assert await client.closed()


async def test_a_client_that_does_not_read_is_cut_off(make_edge: MakeEdge, origin: Origin) -> None:
    async def large(seen: object) -> None:
        await seen.answer(200, b"x" * 30_000_000)  # type: ignore[attr-defined]

    origin.handler = large
    edge = await make_edge("stuck", idle_timeout_s=0.5)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
    writer.write(GET + H + b"\r\n")
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 1)
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)
    assert not edge.worker._clients[0].connections
    writer.close()


async def test_a_client_that_reads_slowly_is_cut_off_and_one_that_reads_enough_is_not(
    make_edge: MakeEdge, origin: Origin
) -> None:
    async def large(seen: object) -> None:
        await seen.answer(200, b"x" * 30_000_000)  # type: ignore[attr-defined]

    origin.handler = large
    edge = await make_edge("slow", answer_rate_min=100_000, body_rate_window_s=0.5)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))

    async def reads(at_once: int, pause_s: float) -> int:
        """How much it gets with a small window."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", edge.port))
            await loop.sock_sendall(sock, GET + H + b"\r\n")
            size, began = 0, loop.time()
            while size < 3_000_000 and loop.time() - began < 20:
                try:
                    data = await loop.sock_recv(sock, at_once)
                except ConnectionError:
                    break
                if not data:
                    break
                size += len(data)
                await asyncio.sleep(pause_s)
            return size

    slow, enough = await asyncio.gather(reads(512, 0.05), reads(65536, 0.001))
    assert enough >= 3_000_000
    assert slow < 3_000_000


async def test_a_client_that_opens_its_window_by_a_few_bytes_is_cut_off(make_edge: MakeEdge, origin: Origin) -> None:
    async def large(seen: Seen) -> None:
        await seen.answer(200, b"x" * 1_000_000 if seen.target == "/large" else b"small")

    origin.handler = large
    made = await make_edge("drip", https_listen=["127.0.0.1:0"], answer_rate_min=100_000, body_rate_window_s=0.5)
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    async with await H2Client.open(made.worker.https_ports[0]) as client:
        client.hold = True
        client.h2.increment_flow_control_window(2_000_000)
        asked = await client.ask("/large")
        async with asyncio.timeout(30):
            while client.answers[asked].reset is None:
                client.h2.increment_flow_control_window(500, asked)
                await client.flush()
                await client._step()
                await asyncio.sleep(0.1)  # more often is a flood
        assert client.answers[asked].reset == 0x8
        assert len(client.answers[asked].body) < 1_000_000
        assert (await client.get("/small")).body == b"small"


async def test_one_client_has_so_many_connections_at_a_time(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("client", client_connections=2)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for _ in range(2):
        async with await Client.open(edge.port) as first, await Client.open(edge.port) as second:
            assert [(await one.get("/a")).status for one in (first, second)] == [200, 200]
            async with await Client.open(edge.port) as third:
                refused = await third.read()
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
                assert b"of this client" in refused.body
        await until(lambda: not edge.worker.state.clients_connected)


async def test_the_number_of_connections_has_a_limit(make_edge: MakeEdge) -> None:
    edge = await make_edge("full", max_connections=2)
    clients = [await Client.open(edge.port) for _ in range(2)]
    await until(lambda: len(edge.worker._clients[0].connections) == 2)
    async with await Client.open(edge.port) as third:
        response = await third.read()
        assert (response.status, response.headers["retry-after"]) == (503, "1")
    clients.pop().writer.close()
    await until(lambda: len(edge.worker._clients[0].connections) == 1)
    assert b"no configuration yet" in (await fetch(edge.port)).body
    clients.pop().writer.close()
