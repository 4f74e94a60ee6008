"""What is over is freed at once: nothing that held bodies or connections waits for the collector of cycles, which on a
busy edge comes seldom."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material

TIMES = 10


@contextmanager
def left_over(found: Counter[str]) -> Iterator[None]:
    """Counts the edge's objects in cycles that nothing leads to any more."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("agent.edge"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def answer(seen: Seen) -> None:
    """By the path: something to keep, something for one client, half of it, nothing at all."""
    kind = seen.target.split("/")[1]
    if kind == "broken":
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nhalf")
        seen.writer.transport.abort()
    elif kind == "silent":
        seen.writer.transport.abort()
    else:
        await seen.answer(200, b"x" * 5000, Cache_Control="max-age=60" if kind == "kept" else "private")


async def made(make_edge: MakeEdge, origin: Origin) -> Edge:
    origin.handler = answer
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for kind in ("kept", "own", "broken"):
        await fetch(edge.port, f"/{kind}/first")
    return edge


async def over(edge: Edge) -> None:
    """No connection and no fetch is left."""
    listeners = (*edge.worker._plain, *edge.worker._secure)
    await until(lambda: not any(listener.connections for listener in listeners) and not edge.worker.state.fills)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_left_of_answers_and_faults(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin)
    found: Counter[str] = Counter()
    with left_over(found):
        for kind in ("kept", "own", "broken", "silent"):
            for number in range(TIMES):
                await fetch(edge.port, f"/{kind}/{number}")
        for number in range(TIMES):
            client = await Client.open(edge.port)
            await client.send(f"GET /own/{number} HTTP/1.1\r\nHost: hello.test\r\n\r\n".encode())
            client.reset()
            del client
        await over(edge)
    assert not {name: count for name, count in found.items() if count >= TIMES / 2}, found


async def test_nothing_is_left_of_http2(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin)
    found: Counter[str] = Counter()
    with left_over(found):
        for number in range(TIMES):
            async with await H2Client.open(edge.worker.https_ports[0]) as client:
                for kind in ("kept", "own", "silent"):
                    assert (await client.get(f"/{kind}/h2/{number}")).status
                posted = await client.ask("/own/post", "POST", end=False)
                client.h2.send_data(posted, b"x" * 1000, end_stream=True)
                await client.flush()
                assert (await client.read(posted)).status == 200
                await client.ask(f"/own/reset/{number}")
            del client
        await over(edge)
    assert not {name: count for name, count in found.items() if count >= TIMES / 2}, found
