"""A worker that leaves: what is under way, also unseen, is answered, and nobody is cut off who could be served."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest

from agent.edge.downstream import ClientConnection
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_client_tls import material

ASKS = b"GET /a HTTP/1.1\r\nHost: hello.test\r\n\r\n"


def only(edge: Edge) -> ClientConnection:
    (listener,) = edge.worker._plain
    (connection,) = listener.connections
    assert isinstance(connection, ClientConnection)
    return connection


@pytest.mark.parametrize("how", ["drain", "retire", "sweep"])
async def test_what_has_come_and_was_not_read_is_answered(edge: Edge, how: str) -> None:
    (listener,) = edge.worker._plain
    async with await Client.open(edge.port) as client:
        assert (await client.get("/a")).status == 200
        later = asyncio.get_running_loop().time() + 3600
        edge.worker.state.draining = how != "sweep"
        os.write(client.writer.get_extra_info("socket").fileno(), ASKS)  # and nothing of this process runs meanwhile
        only(edge).sweep(later) if how == "sweep" else getattr(listener, how)(later)
        answer = await client.read()
        assert answer.status == 200
        assert answer.headers.get("connection") == (None if how == "sweep" else "close")


async def test_a_client_that_asks_again_and_again_is_told_and_not_cut_off(edge: Edge) -> None:
    async with await Client.open(edge.port) as client:
        assert (await client.get("/a")).status == 200
        drained = asyncio.create_task(edge.worker.drain())
        await until(lambda: edge.worker.state.draining)
        answer = await client.get("/a")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await client.send(ASKS)  # it was on its way already: no reset, so that what came before is not lost
        assert await client.reader.read() == b""
    await drained
    assert not edge.worker._plain[0].connections


async def test_a_client_that_has_asked_for_several_loses_no_answer_by_a_reset(edge: Edge, origin: Origin) -> None:
    go = asyncio.Event()

    async def waits(seen: Seen) -> None:
        await go.wait()
        await seen.answer(200, b"x" * 200_000)

    origin.handler = waits
    async with await Client.open(edge.port) as client:
        await client.send(ASKS)
        await until(lambda: bool(origin.seen))
        edge.worker.state.draining = True
        go.set()
        await client.send(ASKS * 50)
        answer = await client.read()
        assert (answer.whole, len(answer.body), answer.headers["connection"]) == (True, 200_000, "close")
        assert await client.closed()


async def test_a_download_from_the_cache_is_not_cut_off(edge: Edge, origin: Origin) -> None:
    body = bytes(range(256)) * 50_000

    async def large(seen: Seen) -> None:
        await seen.answer(200, body, Cache_Control="max-age=60")

    origin.handler = large
    async with await Client.open(edge.port) as first:
        assert (await first.get("/large")).body == body
    client = Client(*await asyncio.open_connection("127.0.0.1", edge.port, limit=65_536))
    await client.send(ASKS.replace(b"/a", b"/large"))
    await until(lambda: bool(client.reader._buffer))  # type: ignore[attr-defined]
    drained = asyncio.create_task(edge.worker.drain())
    await asyncio.sleep(0.5)
    assert not drained.done()
    answer = await client.read()
    assert answer.whole
    assert answer.body == body
    client.writer.close()
    await drained


async def test_a_handshake_that_has_begun_ends_well(make_edge: MakeEdge, origin: Origin, tmp_path: Path) -> None:
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    (listener,) = edge.worker._secure
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.worker.https_ports[0])
    await until(lambda: listener.retire(0.0) == 1)
    leaving = asyncio.create_task(edge.worker.retire(asyncio.Event()))
    await until(lambda: edge.worker.state.retiring)
    await writer.start_tls(ssl._create_unverified_context(), server_hostname="hello.test")  # type: ignore[func-returns-value]
    client = Client(reader, writer)
    answer = await client.get("/a")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    writer.close()
    async with asyncio.timeout(10):
        await leaving


async def test_a_connection_idles_from_the_end_of_its_last_answer_on(edge: Edge, origin: Origin) -> None:
    go = asyncio.Event()

    async def waits(seen: Seen) -> None:
        await go.wait()
        await seen.answer(200, b"done")

    origin.handler = waits
    async with await Client.open(edge.port) as client:
        await client.send(ASKS)
        await until(lambda: bool(origin.seen))
        now, idle_s = asyncio.get_running_loop().time(), edge.settings.idle_timeout_s
        only(edge).sweep(now + 100)
        go.set()
        assert (await client.read()).body == b"done"
        only(edge).sweep(now + 100 + idle_s - 1)
        assert (await client.get("/b")).status == 200
        only(edge).sweep(now + 1000)
        assert await client.closed()
