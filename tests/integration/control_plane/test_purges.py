"""A control plane, a node that decodes its snapshot as the agent does, and a real edge with an origin behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import decode, encode
from agent.core.edge_view import edge_view
from agent.edge.app import Worker
from agent.edge.settings import EdgeSettings
from control_plane.core.purges import REMEMBERED_MAX
from fleet.identity import IdentityFacts
from locci.v1 import agent_pb2, app_pb2, node_pb2, purge_pb2, purge_pb2_grpc
from tests.fakes.edge_agent import FakeAgent
from tests.fakes.origin import Origin, Seen
from tests.integration.control_plane.rig import Host, Rig, error_of, manifest, running, until
from tests.integration.edge.client import Client, Response

HOST = "hello.example.net"


class EdgeHost(Host):
    """A host whose edge is real; its app's only replica is `origin`."""

    origin: Origin
    agent: FakeAgent
    generation = 0
    edge_revision = 0

    def act(self) -> None:
        super().act()
        if hasattr(self, "link") and hasattr(self, "agent"):
            self.publish()

    def publish(self) -> None:
        """Tells the edge what the snapshot says, by the agent's own rules."""
        target = decode.target(self.link.snapshot)
        facts = IdentityFacts("eu-1", "eu", "locci.test", (), "")
        self.generation += 1
        config = encode.edge_config(self.generation, edge_view(target.routes, [], []), facts, self.path)
        for route in config.routes:
            route.ClearField("peers")
            route.local.add(replica="replicas/hello/0/1", address=self.origin.address)
        generation, revision = self.generation, target.revision
        self.told = asyncio.create_task(self._tell(config, generation, revision))

    async def _tell(self, config: Any, generation: int, revision: int) -> None:
        await self.agent.send(config)
        await until(lambda: any(ack.generation >= generation for ack in self.agent.acks), "the edge's word")
        self.edge_revision = max(self.edge_revision, revision)
        self.link.wake()

    def complete_status(self) -> agent_pb2.Status:
        status = super().complete_status()
        status.edge_revision = self._reported = self.edge_revision
        return status

    def status_change(self) -> agent_pb2.Status | None:
        status = super().status_change()
        if status is None and self.edge_revision != getattr(self, "_reported", 0):
            status = agent_pb2.Status()
        if status is not None:
            status.edge_revision = self._reported = self.edge_revision
        return status


class Fleet:
    """Everything together."""

    def __init__(self, rig: Rig, host: EdgeHost, worker: Worker, origin: Origin):
        self.rig, self.host, self.worker, self.origin = rig, host, worker, origin
        self.service = purge_pb2_grpc.PurgeServiceStub(rig.channel)

    async def get(self, target: str) -> Response:
        async with await Client.open(self.worker.http_ports[0]) as client:
            return await client.get(target, Host=HOST)

    async def purge(self, **what: Any) -> purge_pb2.Purge:
        """Orders it, and returns when every node has done it."""
        request = purge_pb2.CreatePurgeRequest(parent="apps/hello", purge=purge_pb2.Purge(**what))
        row = await self.service.CreatePurge(request)

        async def done() -> bool:
            return bool((await self.service.GetPurge(purge_pb2.GetPurgeRequest(name=row.name))).done)

        await until(done, "the purge on every node")
        return row

    async def is_stored(self, target: str) -> bool:
        return "hit" in (await self.get(target)).cache


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async def keep(seen: Seen) -> None:
        if "if-none-match" in seen.headers:
            await seen.send(b'HTTP/1.1 304 X\r\nETag: "v"\r\nCache-Control: max-age=600\r\n\r\n')
            return
        tag = {"Cache_Tag": "news"} if seen.target.startswith("/news") else {}
        await seen.answer(200, b"%d" % len(origin.seen), Cache_Control="max-age=600", ETag='"v"', **tag)

    origin = await Origin(keep).start()
    agent = FakeAgent(tmp_path)
    await agent.start()
    settings = EdgeSettings(
        run_dir=tmp_path, state_dir=tmp_path / "edge", http_listen=["127.0.0.1:0"], https_listen=[], peer_listen="",
        admin_listen="",
    )  # fmt: skip
    worker = Worker(settings)
    await worker.start()
    async with running(tmp_path) as rig:
        await rig.region("eu")
        directory = await rig.enrol(await rig.token("eu", roles=[node_pb2.NODE_ROLE_EDGE]), "eu-1")
        host = EdgeHost(directory, tmp_path / "eu-1.snapshot", node_pb2.NODE_ROLE_EDGE, ["replicas", "routes"])
        host.origin, host.agent = origin, agent
        rig.hosts["eu-1"] = host
        host.connect()
        await rig.condition("eu-1", node_pb2.NODE_CONDITION_READY)
        await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
        await until(lambda: worker.state.table.find(HOST.encode()) is not None, "the route at the edge")
        yield Fleet(rig, host, worker, origin)
        await host.disconnect()
    await agent.stop()
    await worker.stop()
    await origin.stop()


async def test_purging_by_url_prefix_tag_and_all(fleet: Fleet) -> None:
    targets = ["/a", "/a?b=1", "/images/1", "/news/1"]

    async def fill() -> None:
        for target in targets:
            await fleet.get(target)
            assert await fleet.is_stored(target)

    for what, gone in (
        ({"url": f"https://{HOST}/a"}, {"/a"}),
        ({"prefix": f"http://{HOST}/images/"}, {"/images/1"}),
        ({"tag": "news"}, {"/news/1"}),
        ({}, set(targets)),
    ):
        await fill()
        await fleet.purge(**what)
        assert {target for target in targets if not await fleet.is_stored(target)} == gone, what
    listed = await fleet.service.ListPurges(purge_pb2.ListPurgesRequest(parent="apps/hello"))
    assert [(p.WhichOneof("what"), p.done, list(p.waiting_nodes)) for p in listed.purges] == [(None, True, [])]


async def test_an_order_is_effective_and_acknowledged_in_under_a_second(fleet: Fleet) -> None:
    loop = asyncio.get_running_loop()
    effective, acknowledged = [], []
    for number in range(8):
        await fleet.get("/a")
        assert await fleet.is_stored("/a")
        began = loop.time()
        request = purge_pb2.CreatePurgeRequest(parent="apps/hello", purge=purge_pb2.Purge(url=f"https://{HOST}/a"))
        row = await fleet.service.CreatePurge(request)
        while await fleet.is_stored("/a"):
            assert loop.time() - began < 10
        effective.append(loop.time() - began)
        while not (await fleet.service.GetPurge(purge_pb2.GetPurgeRequest(name=row.name))).done:
            assert loop.time() - began < 10
        acknowledged.append(loop.time() - began)
        assert number or not row.done, "it is known to be done when the node has said so"
    print(f"effective after {sorted(effective)[4]:.3f} s, acknowledged after {sorted(acknowledged)[4]:.3f} s (medians)")
    assert sorted(effective)[4] < 1
    assert sorted(acknowledged)[4] < 1


async def test_a_soft_purge_validates(fleet: Fleet) -> None:
    first = await fleet.get("/a")
    await fleet.purge(soft=True)
    second = await fleet.get("/a")
    assert second.body == first.body
    assert "fwd=stale; fwd-status=304" in second.cache
    assert await fleet.is_stored("/a")


async def test_a_node_that_was_away_learns_it_from_its_snapshot(fleet: Fleet) -> None:
    await fleet.get("/a")
    await fleet.host.disconnect()
    request = purge_pb2.CreatePurgeRequest(parent="apps/hello", purge=purge_pb2.Purge(url=f"https://{HOST}/a"))
    row = await fleet.service.CreatePurge(request)
    assert list(row.waiting_nodes) == ["nodes/eu-1"]
    assert await fleet.is_stored("/a")
    fleet.host.connect()

    async def done() -> bool:
        found = await fleet.service.GetPurge(purge_pb2.GetPurgeRequest(name=row.name))
        return bool(found.done and not found.waiting_nodes)

    await until(done, "the node's word")
    assert not await fleet.is_stored("/a")


async def test_a_fetch_that_began_before_an_order_is_joined_by_nobody(fleet: Fleet) -> None:
    go_on = asyncio.Event()

    async def slow(seen: Seen) -> None:
        body = b"old" if len(fleet.origin.seen) == 1 else b"new"
        if body == b"old":
            await go_on.wait()
        await seen.answer(200, body, Cache_Control="max-age=600")

    fleet.origin.handler = slow
    first = asyncio.create_task(fleet.get("/a"))
    await until(lambda: len(fleet.origin.seen) == 1, "the first request")
    await fleet.purge()
    assert (await fleet.get("/a")).body == b"new"
    go_on.set()
    assert (await first).body == b"old"
    assert (await fleet.get("/a")).body == b"new"


async def test_what_is_refused(fleet: Fleet) -> None:
    for what, field in (({"url": "https://other.test/a"}, "purge.url"), ({"tag": "a b"}, "purge.tag")):
        request = purge_pb2.CreatePurgeRequest(parent="apps/hello", purge=purge_pb2.Purge(**what))
        error = await error_of(fleet.service.CreatePurge(request))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field in (error.details() or "")
    missing = await error_of(fleet.service.CreatePurge(purge_pb2.CreatePurgeRequest(parent="apps/nope")))
    assert missing.code() == grpc.StatusCode.NOT_FOUND


async def test_orders_that_are_forgotten_leave_a_floor(fleet: Fleet) -> None:
    await fleet.get("/a")
    for number in range(REMEMBERED_MAX + 2):
        request = purge_pb2.CreatePurgeRequest(parent="apps/hello", purge=purge_pb2.Purge(tag=f"t{number}"))
        last = await fleet.service.CreatePurge(request)
    assert last.floor
    listed = await fleet.service.ListPurges(purge_pb2.ListPurgesRequest(parent="apps/hello", page_size=1000))
    assert len(listed.purges) == REMEMBERED_MAX
    await fleet.purge(tag="last")
    assert not await fleet.is_stored("/a"), "it is older than orders that are forgotten"
