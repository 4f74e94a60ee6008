"""Trailers of responses go to those who want them, and are never merged into anything."""

from __future__ import annotations

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material

REQUEST = b"GET /%d HTTP/1.1\r\nHost: hello.test\r\n%b\r\n"
WANTING = b"TE: trailers\r\nConnection: TE\r\n"


async def trailing(seen: Seen) -> None:
    fields = "Cache-Control: no-store\r\nTrailer: X-Sum, Content-Length\r\nTransfer-Encoding: chunked\r\n"
    await seen.send(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
    await seen.send(b"3\r\nabc\r\n0\r\nX-Sum: 6\r\nAge: 1\r\nSet-Cookie: a=b\r\nX-Forwarded-For: x\r\n\r\n")


async def answered(client: Client) -> tuple[dict[str, str], bytes]:
    """Fields and the rest, chunks and all, of a chunked response with or without trailers."""
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
    lines = (line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
    rest = await client.reader.readuntil(b"\r\n0\r\n")
    while not rest.endswith(b"\r\n\r\n"):
        rest += await client.reader.readuntil(b"\r\n")
    return {name.lower(): value for name, value in lines}, rest


@pytest.mark.parametrize("cache", [True, False])
async def test_they_reach_a_client_that_wants_them(make_edge: MakeEdge, origin: Origin, cache: bool) -> None:
    origin.handler = trailing
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address], cache=cache))
    async with await Client.open(edge.port) as client:
        for number in range(4):  # by a task at first, then the short way
            await client.send(REQUEST % (number, WANTING))
            fields, rest = await answered(client)
            assert rest == b"3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
            assert fields["trailer"] == "x-sum"
            assert "x-sum" not in fields
            await client.send(REQUEST % (number, b""))
            fields, rest = await answered(client)
            assert rest == b"3\r\nabc\r\n0\r\n\r\n"
            assert "trailer" not in fields
    wishes = [(seen.headers.get("te"), seen.headers.get("connection")) for seen in origin.seen]
    assert set(wishes[::2]) == {("trailers", "TE")}
    assert set(wishes[1::2]) == {(None, None)}


async def test_what_is_stored_has_none(edge: Edge, origin: Origin) -> None:
    async def cacheable(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
        await seen.send(b"3\r\nabc\r\n0\r\nCache-Control: no-store\r\nX-Sum: 6\r\n\r\n")

    origin.handler = cacheable
    async with await Client.open(edge.port) as client:
        await client.send(REQUEST % (1, WANTING))
        fields, rest = await answered(client)
        assert ("x-sum" in fields, rest) == (False, b"3\r\nabc\r\n0\r\n\r\n")
        response = await client.get("/1", TE="trailers", Connection="TE")
        assert ("hit" in response.cache, response.body, "x-sum" in response.headers) == (True, b"abc", False)


async def test_too_many_are_left_out(edge: Edge, origin: Origin) -> None:
    async def many(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n")
        await seen.send(b"3\r\nabc\r\n0\r\n" + b"X-A: 1\r\n" * 1000 + b"\r\n")

    origin.handler = many
    async with await Client.open(edge.port) as client:
        for number in range(3):
            await client.send(REQUEST % (number, WANTING))
            assert (await answered(client))[1] == b"3\r\nabc\r\n0\r\n\r\n"


async def test_over_http_2_they_come_in_a_header_block_of_their_own(make_edge: MakeEdge, origin: Origin) -> None:
    origin.handler = trailing
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await H2Client.open(edge.worker.https_ports[0]) as client:
        for number in range(3):
            answer = await client.get(f"/{number}", te="trailers")
            assert (answer.status, answer.body, answer.trailers) == (200, b"abc", {"x-sum": "6"})
            answer = await client.get(f"/{number}")
            assert (answer.status, answer.body, answer.trailers) == (200, b"abc", {})


UPLOAD = b"POST /up HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n%b\r\n3\r\nabc\r\n0\r\n%b\r\n"


@pytest.mark.parametrize(
    ("announced", "sent", "expected"),
    [
        (b"Trailer: X-Sum\r\n", b"X-Sum: 6\r\n", ("x-sum", ["X-Sum: 6"])),
        (b"Trailer: X-Sum, X-Two\r\n", b"x-two: 2\r\nX-Sum: 6\r\n", ("x-sum, x-two", ["x-two: 2", "X-Sum: 6"])),
        (b"", b"X-Sum: 6\r\n", (None, [])),
        (b"Trailer: X-Sum\r\n", b"X-Other: 6\r\n", ("x-sum", [])),
        (b"Trailer: Host, X-Forwarded-For, Cookie, X_Sum, Authorization\r\n", b"Host: x\r\nCookie: a\r\n", (None, [])),
        (b"Trailer: X-Original-URL, X-Real-IP, Content-Length\r\n", b"X-Real-IP: 1\r\n", (None, [])),
        (b"Trailer: X-Sum\r\n", b"X-Sum: 1\r\n" * 40, ("x-sum", [])),
    ],
)
async def test_those_of_a_request_reach_the_app(
    edge: Edge, origin: Origin, announced: bytes, sent: bytes, expected: tuple[str | None, list[str]]
) -> None:
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            await client.send(UPLOAD % (announced, sent))
            assert (await client.read()).status == 200
    for seen in origin.seen:
        assert (seen.body, seen.headers.get("trailer"), seen.trailers) == (b"abc", *expected)
    assert origin.connections == 1
