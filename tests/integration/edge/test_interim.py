"""Interim responses are passed on (RFC 9110 section 15.2), and change nothing of what is stored."""

from __future__ import annotations

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"


async def hinting(seen: Seen) -> None:
    await seen.send(b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS)
    control = "max-age=60" if seen.target == "/stored" else "no-store"
    await seen.answer(200, b"body", Cache_Control=control)


@pytest.mark.parametrize(("target", "method"), [("/stored", "GET"), ("/", "GET"), ("/", "HEAD"), ("/", "POST")])
async def test_they_are_passed_on(edge: Edge, origin: Origin, target: str, method: str) -> None:
    origin.handler = hinting
    async with await Client.open(edge.port) as client:
        for number in range(3):
            answer = await client.get(target, method, b"x" if method == "POST" else None)
            assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"body")
            assert "link" not in answer.headers
            stored = target == "/stored" and number
            assert [early.status for early in client.early] == ([] if stored else [102, 103])
            if not stored:
                assert client.early[1].headers == {"link": "</a.css>; rel=preload"}


async def test_without_the_cache_and_over_the_short_way(make_edge: MakeEdge, origin: Origin) -> None:
    origin.handler = hinting
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address], cache=False))
    async with await Client.open(edge.port) as client:
        for _ in range(4):
            assert (await client.get("/")).body == b"body"
            assert [early.status for early in client.early] == [102, 103]


async def test_over_http_2(make_edge: MakeEdge, origin: Origin) -> None:
    origin.handler = hinting
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await H2Client.open(edge.worker.https_ports[0]) as client:
        answer = await client.get("/stored")
        assert (answer.headers[":status"], answer.body, answer.interim) == ("200", b"body", ["102", "103"])
        answer = await client.get("/stored")
        assert (answer.body, answer.interim) == (b"body", [])


async def test_who_cannot_understand_them_gets_none(edge: Edge, origin: Origin) -> None:
    origin.handler = hinting
    async with await Client.open(edge.port) as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: hello.test\r\n\r\n")
        assert (await client.read()).status == 200
        assert client.early == []


async def test_continue_comes_once(edge: Edge, origin: Origin) -> None:
    async def eager(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await seen.answer(200, seen.body)

    origin.handler = eager
    async with await Client.open(edge.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await client.send(b"body")
        assert (await client.read()).body == b"body"
        assert client.early == []


async def test_an_endpoint_that_says_nothing_else(edge: Edge, origin: Origin) -> None:
    async def endless(seen: Seen) -> None:
        while not seen.writer.transport.is_closing():
            await seen.send(HINTS * 100)

    origin.handler = endless
    assert (await fetch(edge.port)).status == 502
