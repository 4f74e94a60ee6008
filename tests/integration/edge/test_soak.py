"""Two edges under random faults of Redis, origins and each other: no wrong body, no request that is stuck, no leak.

The edges are processes as on a host, so that what they take is told apart from what clients and origins here do.

LOCCI_SOAK_S says for how many seconds (60; 1200 for the whole of it), LOCCI_SEED from which seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.exceptions

from tests.fakes.authority import TRUST_DOMAIN
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin as Server
from tests.integration.edge.running import RunningEdge
from tests.integration.edge.soak import Origin, Visitor
from tests.integration.edge.soak_h2 import H2Visitor
from tests.integration.edge.test_client_tls import material
from tests.integration.edge.test_peers import AUTHORITY
from tests.integration.edge.test_second_tier import Redis

VISITORS = 12
H2_VISITORS = 4
RAM_CACHE_BYTES = 2 * 2**20
GROWTH_BYTES_MAX = 24 * 2**20
"""Of a worker's memory, from the first third on: by then its cache, and what it knows of requests, are full."""
POOLED_MAX = 32
"""Connections that an edge may keep to Redis, to origins and to the other when nothing goes on."""
TASKS_MAX = 4


class Troubles:
    """Everything around two edges, and what goes wrong with it."""

    def __init__(
        self, edges: list[RunningEdge], redis: Redis, servers: list[Server], origin: Origin, rng: random.Random
    ):
        self.near, self.far = edges
        self.redis, self.servers, self.origin, self._rng = redis, servers, origin, rng
        self.counts: Counter[str] = Counter()

    async def serve(self, *, local: bool = True, peers: bool = True) -> None:
        own = [server.address for server in self.servers[:2]] if local else []
        await self.near.serve(route("hello", ["hello.test"], own, peers=[peer(self.far)] if peers else []))

    async def run(self, over: asyncio.Event) -> None:
        """One trouble after the other, each mended again, until it is over."""
        self.origin.faulty = True
        while not over.is_set():
            trouble = self._rng.choice(
                (
                    self._flush,
                    self._freeze,
                    self._kill,
                    self._fill_up,
                    self._origin_away,
                    self._cut,
                    self._alone,
                    self._shielded,
                )
            )
            self.counts[trouble.__name__.strip("_")] += 1
            await trouble()
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        self.origin.faulty = False
        await self.serve()

    async def _flush(self) -> None:
        await self._redis("FLUSHALL")

    async def _freeze(self) -> None:
        assert self.redis.process is not None
        self.redis.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        self.redis.process.send_signal(signal.SIGCONT)

    async def _kill(self) -> None:
        await self.redis.stop()
        await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        await self.redis.start()

    async def _fill_up(self) -> None:
        await self._redis("CONFIG", "SET", "maxmemory", "1mb")
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        await self._redis("CONFIG", "SET", "maxmemory", "0")

    async def _origin_away(self) -> None:
        server = self._rng.choice(self.servers)
        await server.stop()
        await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        await server.start(server.port)

    async def _cut(self) -> None:
        """The other region is out of reach."""
        await self.serve(peers=False)
        await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        await self.serve()

    async def _alone(self) -> None:
        """No replica here; the other region has to do."""
        await self.serve(local=False)
        await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        await self.serve()

    async def _shielded(self) -> None:
        """The other region shields the app; it may be in trouble itself."""
        shielded = route("hello", ["hello.test"], [server.address for server in self.servers[:2]])
        region, node, address = peer(self.far)
        shielded.shield.add(region=region, node=node, address=address)
        await self.near.serve(shielded)
        await asyncio.sleep(self._rng.uniform(0.5, 1.5))
        await self.serve()

    async def _redis(self, *words: str) -> None:
        async with self.redis.client() as client:
            try:
                await client.execute_command(*words)
            except redis.exceptions.RedisError as error:
                self.counts[type(error).__name__] += 1


def peer(edge: RunningEdge) -> tuple[str, str, str]:
    return edge.fields["region"], edge.fields["node"], f"127.0.0.1:{edge.peer_port}"


async def at_rest(edge: RunningEdge, tasks: float, files: int) -> None:
    """Nothing is going on any more, and nothing is left of what went on."""
    async with asyncio.timeout(60):
        while True:
            now = await edge.metrics()
            busy = {name: now[f"locci_edge_{name}"] for name in ("fills", "fill_bytes", "outstanding_requests")}
            more = now["locci_edge_tasks"] - tasks, edge.worker.num_fds() - files
            if not any(busy.values()) and more[0] <= TASKS_MAX and more[1] <= POOLED_MAX:
                break
            await asyncio.sleep(0.1)
    assert now["locci_edge_cache_bytes"] <= RAM_CACHE_BYTES


@pytest.mark.drill
async def test_a_soak(tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("LOCCI_SOAK_S", "60")), int(os.environ.get("LOCCI_SEED", "1"))
    print(f"LOCCI_SOAK_S={seconds:g} LOCCI_SEED={seed}")
    rng = random.Random(seed)
    tier = Redis(tmp_path)
    await tier.start()
    origin = Origin(random.Random(rng.random()))
    servers = [await Server(origin).start() for _ in range(3)]
    edges = [_edge(tmp_path, node, region, tier) for node, region in (("eu-1", "eu"), ("us-1", "us"))]
    try:
        await _soak(edges, tier, servers, origin, rng, seconds)
        for edge in edges:
            assert await edge.stop() == 0
    finally:
        for edge in edges:
            await edge.stop()
        for server in servers:
            await server.stop()
        await tier.stop()


async def _soak(
    edges: list[RunningEdge], tier: Redis, servers: list[Server], origin: Origin, rng: random.Random, seconds: float
) -> None:
    near, far = edges
    for edge in edges:
        await edge.start()
    troubles = Troubles(edges, tier, servers, origin, rng)
    await far.serve(route("hello", ["hello.test"], [servers[2].address]))
    await troubles.serve()
    before = [((await edge.metrics())["locci_edge_tasks"], edge.worker.num_fds()) for edge in edges]
    seen: Counter[str] = Counter()
    over, end = asyncio.Event(), time.monotonic() + seconds
    sizes: list[list[int]] = []
    going = asyncio.create_task(troubles.run(over))
    async with asyncio.TaskGroup() as group:
        for number in range(VISITORS):
            visitor = Visitor(edges[number % 4 == 3].port, random.Random(rng.random()), seen)
            group.create_task(visitor.visit(lambda: time.monotonic() > end or going.done()))
        for number in range(H2_VISITORS):
            second = H2Visitor(edges[number % 4 == 3].https_port, random.Random(rng.random()), seen)
            group.create_task(second.visit(lambda: time.monotonic() > end or going.done()))
        group.create_task(_measure(edges, servers, sizes, end))
    over.set()
    await going
    for edge, (tasks, files) in zip(edges, before, strict=True):
        await at_rest(edge, tasks, files)
        calm: Counter[str] = Counter()
        await Visitor(edge.port, rng, calm).visit(_after(300), manners=1.0)
        await H2Visitor(edge.https_port, rng, calm).visit(_after(50), manners=1.0)
        assert set(calm) <= {"200", "206", "304", "h2 200", "h2 206", "h2 304"}, calm
        await at_rest(edge, tasks, files)
    print(f"{sum(seen.values())} requests {dict(seen)}; {sum(troubles.counts.values())} faults {dict(troubles.counts)}")
    print({name: value for name, value in (await near.metrics()).items() if value and name.endswith("_total")})
    for number, edge in enumerate(edges):
        each = [size[number] for size in sizes]
        shown = " ".join(str(size >> 20) for size in each[:: max(1, len(each) // 20)])
        print(f"memory of {edge.fields['node']}, MiB: {shown}")
    assert seen["200"] > seconds * 10
    assert seen["h2 200"] > seconds
    for number in range(len(edges)):
        third = [size[number] for size in sizes[len(sizes) // 3 :]]
        assert max(third[-3:]) - min(third[:3]) < GROWTH_BYTES_MAX, third


def _after(rounds: int) -> Callable[[], bool]:
    """Whether it was asked so often."""
    left = iter(range(rounds))
    return lambda: next(left, None) is None


def _edge(path: Path, node: str, region: str, tier: Redis) -> RunningEdge:
    (path / node).mkdir()
    edge = RunningEdge(
        path / node,
        connect_timeout_s=0.5,
        upstream_timeout_s=1.0,
        ram_cache_bytes=RAM_CACHE_BYTES,
        redis_url=tier.url,
    )
    identity = AUTHORITY.join(path / f"identity-{node}", node=node, region=region)
    edge.fields = {
        "node": node, "region": region, "identity_dir": str(identity.path), "trust_domain": TRUST_DOMAIN,
    }  # fmt: skip
    edge.certificates = [material("hello", "hello.test")]
    return edge


async def _measure(edges: list[RunningEdge], servers: list[Server], sizes: list[list[int]], end: float) -> None:
    """Each worker's memory once a second."""
    while time.monotonic() < end:
        for server in servers:
            server.seen.clear()
        for edge in edges:
            del edge.agent.sightings[:]
        sizes.append([edge.worker.memory_info().rss for edge in edges])
        await asyncio.sleep(1.0)
