"""Two edges under random faults of Redis, origins and each other: no wrong body, no request that is stuck, no leak.

LOCCI_SOAK_S says for how many seconds (60; 1200 for the whole of it), LOCCI_SEED from which seed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import redis.exceptions

from tests.fakes.authority import TRUST_DOMAIN
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin as Server
from tests.integration.edge.client import until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.soak import Origin, Visitor
from tests.integration.edge.soak_h2 import H2Visitor
from tests.integration.edge.test_client_tls import material
from tests.integration.edge.test_peers import AUTHORITY, peer
from tests.integration.edge.test_second_tier import Redis

VISITORS = 12
H2_VISITORS = 4
GROWTH_BYTES_MAX = 48 * 2**20
POOLED_MAX = 32
"""Connections that two edges may keep to Redis and to each other when nothing goes on."""


class Troubles:
    """Everything around two edges, and what goes wrong with it."""

    def __init__(self, near: Edge, far: Edge, redis: Redis, servers: list[Server], origin: Origin, rng: random.Random):
        self.near, self.far, self.redis, self.servers, self.origin, self._rng = near, far, redis, servers, origin, rng
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


async def at_rest(edge: Edge) -> None:
    """Nothing is going on any more."""
    state = edge.worker.state
    await until(lambda: not state.fills and not any(e.outstanding for e in state.endpoints.values()))
    assert state.fill_bytes == 0
    assert state.store.used_bytes <= edge.settings.ram_cache_bytes


@pytest.mark.drill
async def test_a_soak(make_edge: MakeEdge, tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("LOCCI_SOAK_S", "60")), int(os.environ.get("LOCCI_SEED", "1"))
    print(f"LOCCI_SOAK_S={seconds:g} LOCCI_SEED={seed}")
    rng, process = random.Random(seed), psutil.Process()
    tier = Redis(tmp_path)
    await tier.start()
    origin = Origin(random.Random(rng.random()))
    servers = [await Server(origin).start() for _ in range(3)]
    edges = [await _edge(make_edge, tmp_path, node, region, tier) for node, region in (("eu-1", "eu"), ("us-1", "us"))]
    near, far = edges
    troubles = Troubles(near, far, tier, servers, origin, rng)
    await far.serve(route("hello", ["hello.test"], [servers[2].address]))
    await troubles.serve()
    tasks, files = len(asyncio.all_tasks()), process.num_fds()
    seen: Counter[str] = Counter()
    over, end = asyncio.Event(), time.monotonic() + seconds
    sizes: list[int] = []
    try:
        going = asyncio.create_task(troubles.run(over))
        async with asyncio.TaskGroup() as group:
            for number in range(VISITORS):
                visitor = Visitor(edges[number % 4 == 3].port, random.Random(rng.random()), seen)
                group.create_task(visitor.visit(lambda: time.monotonic() > end or going.done()))
            for number in range(H2_VISITORS):
                edge = edges[number % 4 == 3]
                second = H2Visitor(edge.worker.https_ports[0], random.Random(rng.random()), seen)
                group.create_task(second.visit(lambda: time.monotonic() > end or going.done()))
            group.create_task(_measure(process, servers, sizes, end))
        over.set()
        await going
        for edge in edges:
            await at_rest(edge)
        calm: Counter[str] = Counter()
        for edge in edges:
            left = iter(range(300))
            await Visitor(edge.port, rng, calm).visit(lambda left=left: next(left, None) is None, manners=1.0)
            left = iter(range(50))
            second = H2Visitor(edge.worker.https_ports[0], rng, calm)
            await second.visit(lambda left=left: next(left, None) is None, manners=1.0)
        assert set(calm) <= {"200", "206", "304", "h2 200", "h2 206", "h2 304"}, calm
        for edge in edges:
            await at_rest(edge)
        for server in servers:
            await server.stop()
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 2, 60)
        await until(lambda: process.num_fds() <= files + POOLED_MAX, 60)
    finally:
        await tier.stop()
    counters = {name: value for name, value in near.counters.items() if value}
    print(f"{sum(seen.values())} requests {dict(seen)}; {dict(troubles.counts)}; {counters}")
    print("memory, MiB: " + " ".join(str(size >> 20) for size in sizes[:: max(1, len(sizes) // 20)]))
    assert seen["200"] > seconds * 10
    assert seen["h2 200"] > seconds
    third = sizes[len(sizes) // 3 :]
    assert max(third[-3:]) - min(third[:3]) < GROWTH_BYTES_MAX, sizes


async def _edge(make_edge: MakeEdge, path: Path, node: str, region: str, tier: Redis) -> Edge:
    edge = await make_edge(
        node,
        peer_listen="127.0.0.1:0",
        https_listen=["127.0.0.1:0"],
        connect_timeout_s=0.5,
        upstream_timeout_s=1.0,
        ram_cache_bytes=2 * 2**20,
        redis_url=tier.url,
    )
    identity = AUTHORITY.join(path / f"identity-{node}", node=node, region=region)
    edge.fields = {
        "node": node, "region": region, "identity_dir": str(identity.path), "trust_domain": TRUST_DOMAIN,
    }  # fmt: skip
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve()
    await until(lambda: edge.worker.peer_port > 0)
    return edge


async def _measure(process: psutil.Process, servers: list[Server], sizes: list[int], end: float) -> None:
    """Memory once a second; what the origins noted is forgotten, it is not the edges'."""
    while time.monotonic() < end:
        for server in servers:
            server.seen.clear()
        gc.collect()
        sizes.append(process.memory_info().rss)
        await asyncio.sleep(1.0)
