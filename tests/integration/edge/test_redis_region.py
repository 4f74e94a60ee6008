"""The second tier behind real Sentinels, and on a real cluster, while masters are killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_client
from redis.crc import key_slot
from redis.exceptions import RedisError

from agent.edge.redis_tier import _name
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
SERVICE = "cache"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """A redis-server process on a loopback port."""

    def __init__(self, path: Path, *lines: str, sentinel: bool = False):
        self.port = free_port()
        self.path = path / str(self.port)
        self.sentinel = sentinel
        self.lines = lines
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> Server:
        self.path.mkdir(exist_ok=True)
        config = self.path / "redis.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.path}", *self.lines]
        if not self.sentinel:
            lines += ['save ""', "appendonly no", "repl-diskless-sync-delay 0"]
        config.write_text("\n".join(lines) + "\n")
        arguments = [str(config), *(["--sentinel"] if self.sentinel else [])]
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(RedisError, OSError):
                    await self("PING")
                    return self
                await asyncio.sleep(0.02)

    async def __call__(self, *command: Any) -> Any:
        """The reply to one command."""
        async with redis_client.Redis(port=self.port) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        await server.stop()


async def eventually(condition: Any, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(RedisError, OSError):
                if await condition():
                    return
            await asyncio.sleep(0.05)


async def keep(seen: Seen) -> None:
    await seen.answer(200, seen.target.encode(), Cache_Control="max-age=60")


async def edges(make_edge: MakeEdge, origin: Origin, url: str, count: int = 2) -> list[Edge]:
    origin.handler = keep
    made = [await make_edge(f"edge{number}", redis_url=url, redis_timeout_s=0.5) for number in range(count)]
    for edge in made:
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
    return made


def written(edge: Edge) -> bool:
    tier = edge.worker.state.tier
    return not tier._queue and not tier._writing  # type: ignore[union-attr]


def mapping(reply: Any) -> dict[str, str]:
    """A reply of names and values, in RESP2 or RESP3."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {text(name): text(value) for name, value in pairs}


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def is_master(node: Server) -> bool:
    return text((await node("ROLE"))[0]) == "master"


class Traffic:
    """Clients that ask for ever new URLs until they are told to stop."""

    def __init__(self, edge: Edge):
        self.edge = edge
        self.asked = self.failed = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(4)]

    async def _ask(self, worker: int) -> None:
        async with await Client.open(self.edge.port) as client:
            while not self._stop:
                self.asked += 1
                target = f"/{worker}/{self.asked}"
                answer = await client.get(target)
                self.failed += answer.status != 200 or answer.body != target.encode()
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
        assert self.failed == 0


async def watched(path: Path, servers: list[Server]) -> tuple[Server, Server, str]:
    """A master and its replica, and the URL of the three Sentinels that watch them."""
    master = await Server(path).start()
    replica = await Server(path, f"replicaof 127.0.0.1 {master.port}").start()
    servers += [master, replica]
    lines = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
        f"sentinel down-after-milliseconds {SERVICE} 400",
        f"sentinel failover-timeout {SERVICE} 2000",
    ]
    sentinels = [await Server(path, *lines, sentinel=True).start() for _ in range(3)]
    servers += sentinels

    async def know_each_other() -> bool:
        states = [mapping(await sentinel("SENTINEL", "MASTER", SERVICE)) for sentinel in sentinels]
        return all((state["num-other-sentinels"], state["num-slaves"]) == ("2", "1") for state in states)

    await eventually(know_each_other)
    return master, replica, f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in sentinels)}/{SERVICE}"


async def test_sentinel_and_a_failover_in_traffic(
    make_edge: MakeEdge, origin: Origin, tmp_path: Path, servers: list[Server]
) -> None:
    master, replica, url = await watched(tmp_path, servers)
    first, second = await edges(make_edge, origin, url)
    await fetch(first.port, "/a")
    await until(lambda: written(first))
    assert await master("DBSIZE") == 1
    assert "second-tier" in (await fetch(second.port, "/a")).cache
    traffic = Traffic(first)
    await until(lambda: traffic.asked > 100)
    await servers[2].stop()  # a Sentinel less, and the one that was asked first
    await master.stop()

    await eventually(lambda: is_master(replica))
    size = await replica("DBSIZE")

    async def grows() -> bool:
        return bool(await replica("DBSIZE") > size + 20)

    await eventually(grows)
    await traffic.stop()
    assert "second-tier" in (await fetch(second.port, "/0/1")).cache or traffic.asked, (
        "what was written before is there"
    )
    await fetch(first.port, "/b")
    await until(lambda: written(first))
    await eventually(lambda: _hit(second, "/b"))


async def _hit(edge: Edge, target: str) -> bool:
    edge.worker.state.store.clear()
    return "second-tier" in (await fetch(edge.port, target)).cache


@pytest.mark.drill
async def test_a_master_that_has_become_a_replica(
    make_edge: MakeEdge, origin: Origin, tmp_path: Path, servers: list[Server]
) -> None:
    master, replica, url = await watched(tmp_path, servers)
    (edge,) = await edges(make_edge, origin, url, 1)
    traffic = Traffic(edge)
    await until(lambda: traffic.asked > 50)
    await servers[2]("SENTINEL", "FAILOVER", SERVICE)

    async def changed() -> bool:
        return await is_master(replica) and not await is_master(master)

    await eventually(changed)
    size = await replica("DBSIZE")

    async def grows() -> bool:
        return bool(await replica("DBSIZE") > size + 20)

    await eventually(grows)
    await traffic.stop()


async def clustered(path: Path, servers: list[Server]) -> tuple[list[Server], Server, str]:
    """Three masters, a replica of the first, and the URL of the cluster."""
    lines = ["cluster-enabled yes", "cluster-node-timeout 800", "cluster-require-full-coverage no"]
    lines += ["cluster-replica-validity-factor 0"]
    nodes = [await Server(path, *lines, f"cluster-port {free_port()}").start() for _ in range(4)]
    servers += nodes
    create = await asyncio.create_subprocess_exec(
        "redis-cli", "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes[:3]), "--cluster-yes",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await create.wait() == 0
    *masters, replica = nodes
    bus = next(line for line in masters[0].lines if line.startswith("cluster-port")).split()[1]
    await replica("CLUSTER", "MEET", "127.0.0.1", masters[0].port, bus)
    identity = await masters[0]("CLUSTER", "MYID")

    async def follows() -> bool:
        await replica("CLUSTER", "REPLICATE", identity)
        infos = [await node("CLUSTER", "INFO") for node in nodes]
        known = all("cluster_state:ok" in text(info) and "cluster_known_nodes:4" in text(info) for info in infos)
        return known and text((await replica("ROLE"))[3]) == "connected"

    await eventually(follows)
    return masters, replica, f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes[:2])}"


async def test_a_cluster_and_slots_that_move(
    make_edge: MakeEdge, origin: Origin, tmp_path: Path, servers: list[Server]
) -> None:
    masters, _, url = await clustered(tmp_path, servers)
    first, second = await edges(make_edge, origin, url)
    targets = [f"/{number}" for number in range(40)]
    for target in targets:
        await fetch(first.port, target)
    await until(lambda: written(first))
    sizes = [await node("DBSIZE") for node in masters]
    assert sum(sizes) == 40
    assert min(sizes) > 0
    for target in targets:
        assert "second-tier" in (await fetch(second.port, target)).cache
    name = _name(b"http://hello.test/7")
    slot = key_slot(name)
    source, target_node = sorted(masters, key={node: await holds(node, name) for node in masters}.__getitem__)[:0:-1]
    ids = {node.port: await node("CLUSTER", "MYID") for node in masters}
    await target_node("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    await source("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target_node.port])
    await source("MIGRATE", "127.0.0.1", target_node.port, name, 0, 5000)
    assert await _hit(second, "/7"), "the slot is on its way: ASK"
    for node in masters:
        await node("CLUSTER", "SETSLOT", slot, "NODE", ids[target_node.port])
    assert await _hit(second, "/7"), "the slot is elsewhere: MOVED"
    assert second.counters.tier_errors_total == 0


async def holds(node: Server, name: bytes) -> bool:
    with contextlib.suppress(RedisError):
        return bool(await node("EXISTS", name))
    return False


async def test_a_cluster_whose_master_is_killed_in_traffic(
    make_edge: MakeEdge, origin: Origin, tmp_path: Path, servers: list[Server]
) -> None:
    masters, replica, url = await clustered(tmp_path, servers)
    first, second = await edges(make_edge, origin, url)
    traffic = Traffic(first)
    await until(lambda: traffic.asked > 100)
    await masters[0].stop()
    others = sum([int(await node("DBSIZE")) for node in masters[1:]])

    async def go_on() -> bool:
        return sum([int(await node("DBSIZE")) for node in masters[1:]]) > others + 20

    await eventually(go_on)

    await eventually(lambda: is_master(replica))
    size = await replica("DBSIZE")

    async def grows() -> bool:
        return bool(await replica("DBSIZE") > size + 20)

    await eventually(grows)
    await traffic.stop()
    await until(lambda: written(first))
    last = [f"/0/{number}" for number in range(1, traffic.asked)]
    found = 0
    for target in last[-60:]:
        found += "second-tier" in (await fetch(second.port, target)).cache
    assert found, "the other edge finds them too"


async def test_rates_are_counted_together_on_a_cluster(
    make_edge: MakeEdge, origin: Origin, tmp_path: Path, servers: list[Server]
) -> None:
    _, _, url = await clustered(tmp_path, servers)
    limits = {"client_rate": 10 / 3600, "rate_window_s": 3600}
    made = [await make_edge(f"edge{number}", redis_url=url, **limits) for number in range(2)]
    for edge in made:
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for _ in range(10):
        assert (await fetch(made[0].port)).status == 200

    async def limited() -> bool:
        return (await fetch(made[1].port)).status == 429

    await eventually(limited)
