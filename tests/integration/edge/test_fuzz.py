"""Mutated requests and responses: no worker dies, no connection gets out of step, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest
from structlog.testing import capture_logs

from agent.edge.downstream import Request
from agent.edge.fill import Fill
from agent.edge.upstream import UpstreamConnection
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge
from tests.integration.edge.test_strictness import CASES, CHUNKED, GET, POST, H

SEEDS = (
    *CASES.values(),
    GET + H + b"\r\n",
    GET + H + b'If-None-Match: "x"\r\nRange: bytes=0-1\r\nCache-Control: max-stale=5\r\n\r\n',
    CHUNKED + b"5;ext=1\r\nabcde\r\n0\r\nX: y\r\n\r\n",
    POST + b"Content-Length: 5\r\n\r\nabcde",
    GET + H + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nabc",
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\nVary: Accept\r\n\r\nabcde",
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "a"\r\nCache-Control: s-maxage=1\r\n\r\n'
    b"5\r\nabcde\r\n0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nExpires: 0\r\n\r\nuntil close",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nSet-Cookie: a\r\nLocation: /x\r\n\r\n",
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut, repeated or put in."""
    content = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0:
                content[at : at + 1] = bytes([rng.choice(b"\r\n\0 :;,\t\x0b0aZ\xff")])
            case 1:
                del content[at : at + rng.randint(1, 8)]
            case 2:
                content[at:at] = content[at : at + rng.randint(1, 20)]
            case _:
                content[at:at] = rng.choice([b"\r\n", b"\n", b"Host: x\r\n", b"Content-Length: 3\r\n", b"0\r\n\r\n"])
    return bytes(content)


async def throw(edge: Edge, rng: random.Random, data: bytes) -> None:
    async with await Client.open(edge.port) as client:
        try:
            while data:
                cut = rng.randint(1, len(data))
                client.writer.write(data[:cut])
                data = data[cut:]
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                client.writer.write_eof()
            async with asyncio.timeout(0.05):
                await client.reader.read()
        except (OSError, TimeoutError, RuntimeError):
            return


@pytest.mark.parametrize("seed", range(4))
async def test_mutations(edge: Edge, origin: Origin, seed: int) -> None:
    rng = random.Random(seed)

    async def answer(seen: Seen) -> None:
        if seen.target == "/alive":
            await seen.answer(200, b"alive")
        else:
            await seen.send(mutated(rng, rng.choice(ANSWERS)))
            if rng.random() < 0.3:
                seen.writer.close()

    origin.handler = answer
    with capture_logs() as logs:
        for _ in range(25):
            await asyncio.gather(
                *(throw(edge, rng, mutated(rng, rng.choice(SEEDS)) * rng.randint(1, 2)) for _ in range(20))
            )
            edge.worker.state.store.clear()
            assert (await fetch(edge.port, "/alive")).body == b"alive"
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    listener = edge.worker._clients[0]
    await until(lambda: all(not connection.busy for connection in listener.connections), 10)
    listener.abort()
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)
    assert edge.worker.state.fill_bytes == 0
    await until(lambda: not edge.worker.state.fills and not edge.worker._filler._tasks)


async def test_requests_leave_nothing_behind(edge: Edge, origin: Origin) -> None:
    async def answer(seen: Seen) -> None:
        headers = {"Cache_Control": "max-age=60"} if len(origin.seen) % 2 else {}
        await seen.answer(200, b"x", **headers)

    origin.handler = answer
    for round_ in range(3):
        async with await Client.open(edge.port) as client:
            for number in range(200):
                await client.get(
                    f"/{round_}/{number}", "POST" if number % 3 == 0 else "GET", b"x" if number % 3 == 0 else None
                )
    await until(lambda: not edge.worker._clients[0].connections)
    gc.collect()
    kinds = [type(found) for found in gc.get_objects()]
    assert kinds.count(Fill) == 0
    assert kinds.count(Request) <= 1
    assert kinds.count(UpstreamConnection) <= 4
