"""With a real redis-server on a unix socket."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis_client

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import MakeEdge

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class Redis:
    """A server of the test's own."""

    def __init__(self, path: Path):
        self.socket = path / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no",
            *options, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await until(self.socket.exists)

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            await self.process.wait()

    def client(self) -> redis_client.Redis:
        return redis_client.Redis.from_url(self.url)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path)
    await server.start()
    yield server
    await server.stop()


async def keep(seen: Seen) -> None:
    coding = seen.headers.get("accept-encoding", "none")
    vary = {"Vary": "Accept-Encoding"} if seen.target.startswith("/vary") else {}
    await seen.answer(200, coding.encode(), Cache_Control="max-age=60", **vary)


async def keys(redis: Redis) -> int:
    async with redis.client() as client:
        return int(await client.dbsize())


async def wait_for_keys(redis: Redis, count: int) -> None:
    async with asyncio.timeout(30):
        while await keys(redis) != count:
            await asyncio.sleep(0.01)


async def test_another_edge_of_the_region_finds_it(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    origin.handler = keep
    first = await make_edge("first", redis_url=redis.url)
    second = await make_edge("second", redis_url=redis.url)
    for edge in (first, second):
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(first.port, "/a")
    await fetch(first.port, "/vary", Accept_Encoding="br")
    await wait_for_keys(redis, 3)
    answer = await fetch(second.port, "/a")
    assert answer.body == b"none"
    assert answer.cache.startswith("locci; hit")
    assert "second-tier" in answer.cache
    assert "second-tier" not in (await fetch(second.port, "/a")).cache
    assert "second-tier" in (await fetch(second.port, "/vary", Accept_Encoding="br")).cache
    assert "fwd" in (await fetch(second.port, "/vary", Accept_Encoding="gzip")).cache
    assert len(origin.seen) == 3
    await fetch(second.port, "/a", "POST", b"x")
    await wait_for_keys(redis, 3)
    third = await make_edge("third", redis_url=redis.url)
    await third.serve(route("hello", ["hello.test"], [origin.address]))
    assert "fwd=uri-miss" in (await fetch(third.port, "/a")).cache


async def test_ranges_are_served_from_it(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    async def ranged(seen: Seen) -> None:
        fields = {"Cache_Control": "max-age=60", "ETag": '"v1"'}
        if seen.headers.get("range") == "bytes=0-3":
            await seen.answer(206, b"0123", Content_Range="bytes 0-3/10", **fields)
        else:
            await seen.answer(200, b"0123456789", **fields)

    origin.handler = ranged
    first = await make_edge("first", redis_url=redis.url)
    second = await make_edge("second", redis_url=redis.url)
    for edge in (first, second):
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(second.port, "/a", Range="bytes=0-3")
    assert "hit" in (await fetch(second.port, "/a", Range="bytes=0-3")).cache
    await fetch(first.port, "/a")
    await wait_for_keys(redis, 1)
    answer = await fetch(second.port, "/a", Range="bytes=2-5")
    assert (answer.status, answer.body) == (206, b"2345")
    assert "second-tier" in answer.cache
    assert "hit" in (await fetch(second.port, "/a")).cache
    assert len(origin.seen) == 2


async def test_a_large_body_lies_in_stripes(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    body = bytes(range(256)) * 8000  # 2 MB

    async def large(seen: Seen) -> None:
        await seen.answer(200, body, Cache_Control="max-age=60")

    origin.handler = large
    edge = await make_edge(redis_url=redis.url, redis_timeout_s=5.0)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(edge.port, "/large")
    await wait_for_keys(redis, 9)
    edge.worker.state.store.clear()
    found = await fetch(edge.port, "/large")
    assert (found.body == body, "second-tier" in found.cache) == (True, True)
    async with redis.client() as client:
        sizes = {name: int(await client.strlen(name)) for name in await client.keys("*")}
        assert max(sizes.values()) <= 256 * 1024
        await client.delete(max(sizes, key=lambda name: sizes[name]))
    edge.worker.state.store.clear()
    assert (await fetch(edge.port, "/large")).body == body, "a stripe is gone: the origin is asked"
    assert len(origin.seen) == 2


async def test_garbage_is_not_believed(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    origin.handler = keep
    edge = await make_edge(redis_url=redis.url)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(edge.port, "/a")
    await fetch(edge.port, "/b")
    await wait_for_keys(redis, 2)
    async with redis.client() as client:
        names = await client.keys("*")
        values = [bytes(await client.get(name) or b"") for name in names]
        await client.set(names[0], values[1])  # whole, but another's
        await client.set(names[1], values[0][:-1])
    edge.worker.state.store.clear()
    for target in ("/a", "/b"):
        assert "fwd=uri-miss" in (await fetch(edge.port, target)).cache
    assert edge.counters.tier_garbage_total == 2
    async with redis.client() as client:
        for name in names:
            await client.delete(name)
            await client.lpush(name, "not a string")
    edge.worker.state.store.clear()
    for target in ("/a", "/b"):
        assert (await fetch(edge.port, target)).status == 200


async def test_redis_goes_and_comes_while_clients_ask(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    origin.handler = keep
    edge = await make_edge(redis_url=redis.url)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    failed = asked = 0
    stop = asyncio.Event()

    async def ask(worker: int) -> None:
        nonlocal failed, asked
        async with await Client.open(edge.port) as client:
            while not stop.is_set():
                asked += 1
                failed += (await client.get(f"/{worker}-{asked}")).status != 200
                await asyncio.sleep(0)

    workers = [asyncio.create_task(ask(number)) for number in range(8)]
    await until(lambda: asked > 200)
    await redis.stop()
    seen = asked
    await until(lambda: asked > seen + 200 and edge.counters.tier_skipped_total > 0)
    await redis.start()
    async with asyncio.timeout(20):
        while await keys(redis) == 0:
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*workers)
    assert failed == 0


async def test_redis_that_hangs_costs_little(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    origin.handler = keep
    edge = await make_edge(redis_url=redis.url)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(edge.port, "/warm")
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    for number in range(50):
        assert (await fetch(edge.port, f"/{number}")).status == 200
    assert edge.counters.tier_skipped_total > 25, "after a few timeouts the breaker opens"


async def test_a_full_redis(make_edge: MakeEdge, origin: Origin, redis: Redis) -> None:
    origin.handler = keep
    await redis.stop()
    await redis.start("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    edge = await make_edge(redis_url=redis.url)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for number in range(20):
        assert (await fetch(edge.port, f"/{number}")).status == 200
    await until(lambda: edge.counters.tier_errors_total > 0)
