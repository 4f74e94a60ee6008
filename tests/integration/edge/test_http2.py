"""HTTP/2 over TLS (RFC 9113): what clients see, what they may not do, and what happens beside HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)

from agent.edge.http2 import Http2Connection
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material, secure

CALM = 0xB
LARGE = bytes(range(256)) * 4000


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    return made


async def serve(seen: Seen) -> None:
    match seen.target:
        case "/kept":
            await seen.answer(200, b"kept", Cache_Control="max-age=60", Content_Type="text/plain")
        case "/varied":
            coding = seen.headers.get("accept-language", "none")
            await seen.answer(200, coding.encode(), Cache_Control="max-age=60", Vary="Accept-Language")
        case "/kept-16k":
            await seen.answer(200, LARGE[:16000], Cache_Control="max-age=60")
        case "/large":
            await seen.answer(200, LARGE)
        case "/kept-large":
            await seen.answer(200, LARGE, Cache_Control="max-age=60")
        case "/chunked":
            await seen.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        case "/cut":
            await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            seen.writer.transport.abort()
        case "/204":
            await seen.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        case "/slow":
            await asyncio.sleep(30)
        case target:
            await seen.answer(200, f"{seen.method} {target} ".encode() + seen.body)


def port(edge: Edge) -> int:
    return edge.worker.https_ports[0]


async def test_answers_of_every_shape(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        for _ in range(2):
            kept = await client.get("/kept")
            assert (kept.status, kept.body, kept.headers["content-length"]) == (200, b"kept", "4")
        assert kept.headers["cache-status"].startswith("locci; hit")
        assert kept.headers["x-request-id"]
        for target, status, body in (
            ("/large", 200, LARGE),
            ("/kept-large", 200, LARGE),
            ("/kept-large", 200, LARGE),
            ("/chunked", 200, b"abcde"),
            ("/204", 204, b""),
        ):
            answer = await client.get(target)
            assert (answer.status, answer.body, answer.ended) == (status, body, True), target
            assert not {"connection", "transfer-encoding", "keep-alive"} & answer.headers.keys()
        head = await client.read(await client.ask("/kept", "HEAD"))
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "4")
        part = await client.get("/kept", range="bytes=1-2")
        assert (part.status, part.body) == (206, b"ep")
        cut = await client.get("/cut")
        assert cut.reset is not None
        assert not cut.ended
        assert (await client.get("/.well-known/locci/health")).status == 200
        assert (await client.get("/after")).status == 200
    assert origin.seen[0].headers["via"] == "2.0 locci"
    assert origin.seen[0].headers["x-forwarded-proto"] == "https"
    assert origin.seen[0].raw_head.startswith(b"GET /kept HTTP/1.1\r\nHost: hello.test\r\n")
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_stored_variants_are_answered_at_once(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        for _ in range(2):
            for language in ("de", "fr", "de"):
                answer = await client.get("/varied", accept_language=language)
                assert (answer.status, answer.body) == (200, language.encode())
        assert len(origin.seen) == 2
        assert edge.counters.plain_hits >= 3
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
        assert (await client.get("/varied", accept_language="fr")).headers["cache-status"].startswith("locci; hit")


async def test_streams_do_not_wait_for_each_other(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        slow = await client.ask("/slow")
        many = [await client.ask(f"/{number}") for number in range(60)]
        for number, stream in enumerate(many):
            assert (await client.read(stream)).body == b"GET /%d " % number
        assert not client.answers[slow].ended


async def test_bodies_go_up(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        for more in ([], [("content-length", str(len(LARGE)))], [("expect", "100-continue")]):
            number = await client.ask("/up", "POST", end=False, more=more)
            left = LARGE
            while left:
                size = min(client.h2.local_flow_control_window(number), 16384, len(left))
                if size == 0:
                    await asyncio.wait_for(client._step(), 30)
                    continue
                client.h2.send_data(number, left[:size], end_stream=size == len(left))
                left = left[size:]
                await client.flush()
            answer = await client.read(number)
            assert (answer.status, answer.body) == (200, b"POST /up " + LARGE)
            assert not more or more[0][0] != "expect" or answer.interim in ([], ["100"])


async def test_a_body_that_nobody_wants_is_cut_short(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("small", https_listen=["127.0.0.1:0"], max_body_bytes=1000)
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await H2Client.open(port(edge)) as client:
        refused = await client.read(await client.ask("/", "POST", end=False, more=[("content-length", "2000")]))
        assert refused.status == 413
        number = await client.ask("/", "POST", end=False)
        client.h2.send_data(number, b"x" * 2000)
        await client.flush()
        assert (await client.read(number)).status == 413
        assert (await client.get("/")).status == 200, "the connection goes on"


async def test_a_slow_reader_holds_its_own_stream_only(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        client.hold = True
        large = await client.ask("/kept-large")
        other = await client.ask("/large")
        async with asyncio.timeout(30):
            while len(client.answers[large].body) + len(client.answers[other].body) < 65535:
                await client._step()
        client.h2.increment_flow_control_window(200_000)
        small = await client.ask("/small")
        assert (await client.read(small)).body == b"GET /small "
        assert not client.answers[large].ended
        client.hold = False
        client.h2.increment_flow_control_window(2 * len(LARGE))
        for number in (large, other):
            client.h2.increment_flow_control_window(len(LARGE), number)
        await client.flush()
        assert (await client.read(large)).body == LARGE
        assert (await client.read(other)).body == LARGE


BAD_REQUESTS: dict[str, tuple[dict[str, str], list[tuple[str, str]]]] = {
    "line break in a value": ({}, [("x", "a\r\nHost: evil.test")]),
    "line feed in a value": ({}, [("x", "a\nb")]),
    "zero in a value": ({}, [("x", "a\0b")]),
    "space around a value": ({}, [("x", " a")]),
    "line break in a name": ({}, [("x\r\ny", "a")]),
    "colon in a name": ({}, [("x:y", "a")]),
    "space in a name": ({}, [("x y", "a")]),
    "upper case in a name": ({}, [("X-Upper", "a")]),
    "transfer-encoding": ({}, [("transfer-encoding", "chunked")]),
    "connection": ({}, [("connection", "close")]),
    "upgrade": ({}, [("upgrade", "websocket")]),
    "te": ({}, [("te", "gzip")]),
    "two hosts": ({}, [("host", "evil.test")]),
    "late pseudo field": ({}, [("x", "a"), (":path", "/other")]),
    "unknown pseudo field": ({}, [(":status", "200")]),
    "no path": ({":path": "-"}, []),
    "empty path": ({":path": ""}, []),
    "absolute path": ({":path": "http://evil.test/"}, []),
    "line break in the path": ({":path": "/ HTTP/1.1\r\nHost: evil.test"}, []),
    "space in the path": ({":path": "/a b"}, []),
    "no method": ({":method": "-"}, []),
    "space in the method": ({":method": "GET / HTTP/1.1"}, []),
    "scheme": ({":scheme": "http"}, []),
    "no scheme": ({":scheme": "-"}, []),
    "authority": ({":authority": "a b"}, []),
    "user in authority": ({":authority": "user@hello.test"}, []),
    "CONNECT": ({":method": "CONNECT"}, []),
    "two lengths": ({}, [("content-length", "0, 0")]),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_refused(edge: Edge, origin: Origin, what: str) -> None:
    pseudo, more = BAD_REQUESTS[what]
    async with await H2Client.open(port(edge)) as client:
        answer = await client.read(await client.ask(pseudo=pseudo, more=more))
        assert client.gone or answer.reset is not None or answer.status in (400, 405), answer
    assert origin.seen == []
    async with await H2Client.open(port(edge)) as client:
        assert (await client.get("/")).status == 200


async def test_what_is_malformed_is_explained_and_reset(edge: Edge, origin: Origin) -> None:
    async with await H2Client.open(port(edge)) as client:
        for more in ([("x", "a\nb")], [("connection", "close")]):
            answer = await client.read(await client.ask(more=more))
            assert (answer.status, answer.reset, answer.ended) == (400, 1, False)
            assert b"not allowed" in answer.body or b"no meaning" in answer.body
        number = await client.ask("/up", "POST", end=False, more=[("content-length", "5")])
        client.h2.send_data(number, b"abc", end_stream=True)
        await client.flush()
        assert (await client.read(number)).reset == 1
        assert (await client.read(await client.ask(method="CONNECT"))).status == 405
        assert (await client.get("/")).status == 200, "the connection goes on"
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_what_is_answered_early_is_still_checked(edge: Edge) -> None:
    """An answer that waits for nobody does not hide what comes behind it."""
    async with await H2Client.open(port(edge)) as client:
        pseudo = {":authority": "nobody.test"}
        bad = await client.ask("/", "POST", end=False, pseudo=pseudo, more=[("content-length", "1")])
        fine = await client.ask("/", "POST", end=False, pseudo=pseudo, more=[("content-length", "4")])
        late = await client.ask("/", "POST", end=False, pseudo=pseudo)
        for number in (bad, fine, late):
            assert (await client.read(number)).status == 421
        await client.raw(DataFrame(bad, b"test", flags=["END_STREAM"]).serialize())
        await client.raw(DataFrame(fine, b"test", flags=["END_STREAM"]).serialize())
        async with asyncio.timeout(30):
            while client.answers[bad].reset is None or client.answers[late].reset is None:
                await client._step()
        assert [client.answers[number].reset for number in (bad, fine, late)] == [1, None, 0]


async def test_trailers_of_a_request_are_taken(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        number = await client.ask("/up", "POST", end=False, more=[("trailer", "x-checksum")])
        client.h2.send_data(number, b"abc")
        client.h2.send_headers(number, [("x-checksum", "1")], end_stream=True)
        await client.flush()
        assert (await client.read(number)).body == b"POST /up abc"
    assert origin.seen[-1].headers["trailer"] == "x-checksum"
    assert origin.seen[-1].trailers == ["x-checksum: 1"]


async def test_a_client_that_asks_is_not_idle(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("idle", https_listen=["127.0.0.1:0"], idle_timeout_s=0.6)
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client, await H2Client.open(port(edge)) as idle:
        waits = asyncio.create_task(idle.until_gone())
        while not waits.done():
            assert (await client.get("/kept")).status == 200
            await asyncio.sleep(0.05)
        assert await waits == 0
        assert (await client.get("/kept")).headers["cache-status"].startswith("locci; hit")
        assert await client.until_gone() == 0


async def test_a_head_that_never_ends(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await make_edge("slow", https_listen=["127.0.0.1:0"], header_timeout_s=0.3)
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await H2Client.open(port(edge)) as client:
        assert (await client.get("/")).status == 200
        await client.raw(HeadersFrame(3, b"\x82").serialize())
        assert await client.until_gone() == CALM


async def test_hits_wait_for_a_client_that_does_not_read(edge: Edge, origin: Origin) -> None:
    """What has been answered is bounded by what the socket takes, whatever the client asks for."""
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        await client.get("/kept-16k")
        client.h2.increment_flow_control_window(2**30)
        block = client.h2.encoder.encode(
            [(":method", "GET"), (":scheme", "https"), (":authority", "hello.test"), (":path", "/kept-16k")]
        )
        frames = [HeadersFrame(3 + 2 * n, block, flags=["END_HEADERS", "END_STREAM"]) for n in range(3000)]
        before = edge.counters.body_bytes_sent_total
        await client.flush()
        await client.raw(b"".join(frame.serialize() for frame in frames))
        await until(lambda: not all(c._writable for c in edge.worker._secure[0].connections))
        assert edge.counters.body_bytes_sent_total - before < 3000 * 16000
        client.writer.transport.abort()
    async with await H2Client.open(port(edge)) as client:
        assert (await client.get("/kept")).status == 200


async def test_cookies_are_put_together(edge: Edge, origin: Origin) -> None:
    async with await H2Client.open(port(edge)) as client:
        await client.read(await client.ask(more=[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]))
    assert origin.seen[0].headers["cookie"] == "a=1; b=2"


async def flood(client: H2Client, kind: str) -> None:
    """Ten thousand of one thing, or as many as the edge takes."""
    first = await client.ask("/slow", "POST", end=False)
    block = client.h2.encoder.encode(
        [(":method", "GET"), (":scheme", "https"), (":authority", "hello.test"), (":path", "/slow")]
    )
    for number in range(100):
        parts = []
        for step in range(100):
            stream = 3 + 2 * (100 * number + step)
            match kind:
                case "rapid reset":
                    parts.append(HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
                    parts.append(RstStreamFrame(stream, error_code=8).serialize())
                case "ping":
                    parts.append(PingFrame(0, b"12345678").serialize())
                case "settings":
                    parts.append(SettingsFrame(0, settings={4: 65535}).serialize())
                case "empty data":
                    parts.append(DataFrame(first, b"").serialize())
                case "priority":
                    parts.append(PriorityFrame(stream, depends_on=0).serialize())
                case _:
                    if number == step == 0:
                        parts.append(HeadersFrame(3, block).serialize())
                    parts.append(ContinuationFrame(3, b"").serialize())
        await client.raw(b"".join(parts))


@pytest.mark.parametrize("kind", ["rapid reset", "ping", "settings", "empty data", "priority", "continuation"])
async def test_floods_end_the_connection(edge: Edge, origin: Origin, kind: str) -> None:
    origin.handler = serve
    async with await H2Client.open(port(edge)) as client:
        await flood(client, kind)
        code = await client.until_gone()
        assert code in (None, CALM, 1)
    assert len(origin.seen) < 400
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)
    async with await H2Client.open(port(edge)) as client:
        assert (await client.get("/")).status == 200
    assert edge.counters.refused_total >= 1


async def test_garbage_and_large_heads(edge: Edge) -> None:
    async with await H2Client.open(port(edge)) as client:
        await client.raw(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # a window of 0
        assert await client.until_gone() == 1
    async with await H2Client.open(port(edge)) as client:
        answer = await client.read(await client.ask(more=[(f"x-{number}", "y") for number in range(200)]))
        assert answer.status == 431
        assert (await client.read(await client.ask("/" + "a" * 9000))).status == 414
    async with await H2Client.open(port(edge)) as client:
        await client.ask(more=[(f"x-{number}", "y" * 4000) for number in range(20)])
        await client.until_gone()
        assert client.gone


async def test_a_client_that_leaves_ends_its_requests(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    endpoint = edge.worker.state.endpoints[origin.address]
    edge.worker.state.mark_uncacheable(b"https://hello.test/slow")  # a fetch for the cache would go on
    client = await H2Client.open(port(edge))
    number = await client.ask("/slow")
    await client.ask("/slow", "POST", end=False)
    await until(lambda: endpoint.outstanding == 2)
    client.h2.reset_stream(number)
    await client.flush()
    await until(lambda: endpoint.outstanding == 1)
    client.writer.transport.abort()
    await until(lambda: endpoint.outstanding == 0)


async def test_what_is_on_its_way_to_a_worker_that_drains_can_be_asked_again(edge: Edge, origin: Origin) -> None:
    async with await H2Client.open(port(edge)) as client:
        assert (await client.get("/")).status == 200
        drained = asyncio.create_task(edge.worker.drain())
        await until(lambda: edge.worker.state.draining)
        await asyncio.sleep(0)
        late = await client.read(await client.ask("/late"))
        assert late.status == 200  # it was on its way when the client was told
        (connection,) = edge.worker._secure[0].connections
        assert isinstance(connection, Http2Connection)
        await until(lambda: connection._core.refuses)
        too_late = await client.read(await client.ask("/too-late"))
        assert too_late.reset == 7  # REFUSED_STREAM
        assert await client.until_gone() == 0
        await drained
    assert [seen.target for seen in origin.seen] == ["/", "/late"]


async def test_a_worker_that_drains_answers_what_runs(edge: Edge, origin: Origin) -> None:
    go = asyncio.Event()

    async def waits(seen: Seen) -> None:
        await asyncio.wait_for(go.wait(), 30)
        await seen.answer(200, b"done")

    origin.handler = waits
    async with await H2Client.open(port(edge)) as idle, await H2Client.open(port(edge)) as client:
        number = await client.ask("/")
        await until(lambda: bool(origin.seen))
        drained = asyncio.create_task(edge.worker.drain())
        assert await idle.until_gone() == 0
        async with asyncio.timeout(30):
            while client.goaway is None:
                await client._step()
        go.set()
        assert (await client.read(number)).body == b"done"
        await client.until_gone()
        await drained


async def test_a_client_that_says_goodbye_gets_what_it_has_asked_for(edge: Edge, origin: Origin) -> None:
    go = asyncio.Event()

    async def waits(seen: Seen) -> None:
        await asyncio.wait_for(go.wait(), 30)
        await seen.answer(200, b"done")

    origin.handler = waits
    async with await H2Client.open(port(edge)) as client:
        number = await client.ask("/")
        await client.raw(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
        await until(lambda: bool(origin.seen))
        go.set()
        assert (await client.read(number)).body == b"done"
        await client.until_gone()


async def test_http_1_1_beside_it_and_websockets(edge: Edge, origin: Origin) -> None:
    async def switch(seen: Seen) -> None:
        if "upgrade" not in seen.headers:
            await seen.answer(200, b"plain")
            return
        await seen.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await seen.reader.read(1024):
            await seen.send(b"<" + data + b">")

    origin.handler = switch
    async with await H2Client.open(port(edge)) as second, await secure(edge) as first:
        assert (await second.get("/")).body == b"plain"
        await first.send(b"GET /ws HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await first.read()).status == 101
        await first.send(b"hi")
        assert await asyncio.wait_for(first.reader.readexactly(4), 30) == b"<hi>"


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2, env={"PATH": "/usr/bin:/bin"})
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return out.decode()


async def test_curl(edge: Edge, origin: Origin, tmp_path: Path) -> None:
    origin.handler = serve
    url = f"https://hello.test:{port(edge)}"
    base = ["curl", "-sSk", "--noproxy", "*", "--resolve", f"hello.test:{port(edge)}:127.0.0.1"]
    shown = ["-o", str(tmp_path / "body"), "-w", "%{http_version} %{http_code}"]
    for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
        assert await run(*base, *shown, flag, f"{url}/large") == f"{version} 200"
        assert (tmp_path / "body").read_bytes() == LARGE
    (tmp_path / "up").write_bytes(LARGE)
    assert await run(*base, *shown, "--http2", "--data-binary", f"@{tmp_path / 'up'}", f"{url}/up") == "2 200"
    assert (tmp_path / "body").read_bytes() == b"POST /up " + LARGE


async def test_h2load(edge: Edge, origin: Origin) -> None:
    origin.handler = serve
    for target, requests in (("/kept", 3000), ("/kept-large", 100), ("/passed", 300)):
        command = ["h2load", "-n", str(requests), "-c", "4", "-m", "20", f"https://127.0.0.1:{port(edge)}{target}"]
        out = await run(*command, "-H", ":authority: hello.test")
        found = re.search(r"(\d+) succeeded, (\d+) failed", out)
        assert found is not None, out
        assert (int(found[1]), int(found[2])) == (requests, 0), json.dumps(out)
        assert f"status codes: {requests} 2xx" in out
