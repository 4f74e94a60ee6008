"""Limits on rates: on every way through the edge, and together with others through a real redis-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material
from tests.integration.edge.test_second_tier import Redis

HOUR = {"rate_window_s": 3600}


def an_hour(count: int) -> float:
    """The rate at which so many may come in an hour: no test takes long enough for another."""
    return count / 3600


async def keep(seen: Seen) -> None:
    await seen.answer(200, b"kept", Cache_Control="max-age=600" if seen.target == "/kept" else "no-store")


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path)
    await server.start()
    yield server
    await server.stop()


async def made(make_edge: MakeEdge, origin: Origin, name: str, **settings: object) -> Edge:
    origin.handler = keep
    edge = await make_edge(name, https_listen=["127.0.0.1:0"], **HOUR, **settings)
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]), route("other", ["other.test"], [origin.address]))
    return edge


async def test_a_client_that_asks_too_much_is_told_when_to_come_again(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin, "limited", client_rate=an_hour(12))
    async with await Client.open(edge.port) as client:
        for number in range(6):
            assert (await client.get("/kept" if number % 2 else "/passed")).status == 200
        await client.send(b"GET /kept HTTP/1.1\r\nHost: hello.test\r\n\r\n" * 8)
        assert [(await client.read()).status for _ in range(8)] == [200] * 6 + [429] * 2
        seen = len(origin.seen)
        refused = await client.get("/kept")
        assert refused.status == 429
        assert 0 < int(refused.headers["retry-after"]) <= 3600
        assert "rate" in refused.cache
        assert refused.headers["x-request-id"]
        assert (await client.get("/up", "POST", b"body")).status == 429
        assert (await client.get("/.well-known/locci/health")).status == 200
    async with await H2Client.open(edge.worker.https_ports[0]) as second:
        assert (await second.get("/kept")).status == 429
    assert len(origin.seen) == seen
    assert edge.counters.limited_total >= 5


async def test_each_app_has_its_own(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin, "apps", app_rate=an_hour(3))
    assert [(await fetch(edge.port, "/kept")).status for _ in range(5)] == [200] * 3 + [429] * 2
    assert [(await fetch(edge.port, "/kept", Host="other.test")).status for _ in range(4)] == [200] * 3 + [429]
    assert (await fetch(edge.port, "/", Host="nobody.test")).status == 421


async def test_edges_of_a_region_count_together(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    edges = [await made(make_edge, origin, f"edge{n}", client_rate=an_hour(10), redis_url=redis.url) for n in range(2)]
    for edge in edges:
        for _ in range(5):
            assert (await fetch(edge.port, "/kept")).status == 200

    async def shared() -> bool:
        async with redis.client() as client:
            found = [int(await client.get(key) or 0) async for key in client.scan_iter(b"locci:r1:c:*")]
        return sum(found) >= 10

    async with asyncio.timeout(30):
        while not await shared():
            await asyncio.sleep(0.05)
    # The first has not heard of what the second added later, until it has something to add itself.
    async with asyncio.timeout(30):
        while (await fetch(edges[0].port, "/kept")).status == 200:
            await asyncio.sleep(0.3)
    passed = sum([(await fetch(edges[1].port, "/kept")).status == 200 for _ in range(8)])
    assert passed <= 5


async def test_without_redis_each_counts_for_itself(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    edge = await made(make_edge, origin, "alone", client_rate=an_hour(8), redis_url=redis.url)
    await redis.stop()
    assert [(await fetch(edge.port, "/kept")).status for _ in range(4)] == [200] * 4
    await until(lambda: edge.counters.tier_errors_total > 0)
    assert [(await fetch(edge.port, "/kept")).status for _ in range(6)] == [200] * 4 + [429] * 2


async def test_rates_of_an_app_are_shared_too(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    edges = [await make_edge(f"own{n}", redis_url=redis.url) for n in range(2)]
    limited = route("hello", ["hello.test"], [origin.address])
    limited.http.limits.rate = an_hour(10)
    limited.http.limits.window.FromSeconds(3600)
    for edge in edges:
        await edge.serve(limited)
        for _ in range(5):
            assert (await fetch(edge.port, "/a")).status == 200

    async def shared() -> bool:
        async with redis.client() as client:
            return [int(await client.get(key) or 0) async for key in client.scan_iter(b"locci:r1:a:hello:*")] == [10]

    async with asyncio.timeout(30):
        while not await shared():
            await asyncio.sleep(0.05)
        while (await fetch(edges[0].port, "/a")).status == 200:
            await asyncio.sleep(0.3)
    assert sum([(await fetch(edges[1].port, "/a")).status == 200 for _ in range(8)]) <= 5
