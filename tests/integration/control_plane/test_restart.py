"""What a restart of the control plane must not change."""

from __future__ import annotations

import asyncio
from pathlib import Path

from locci.v1 import app_pb2, node_pb2, release_pb2, zone_pb2
from tests.integration.control_plane.rig import manifest, running, until


async def test_a_restart_flips_nothing_that_nodes_hold(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        await rig.region("us")
        for node, region in (("eu-1", "eu"), ("us-1", "us")):
            await rig.host(node, region)
        dns = await rig.host("dns-1", "eu", dns=True)
        await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
        await rig.finished(answer.rollout.name)

        def served() -> bool:
            hostname = dns.resources.get("hostnames/hello.example.net")
            endpoints = hostname.hostname.endpoints if hostname else []
            return len(endpoints) == 2 and all(e.healthy_replicas == 1 for e in endpoints)

        await until(served, "the hostname is served")
        before = {name: resource.version for name, resource in dns.resources.items()}
        await rig.stop()
        await rig.hosts["us-1"].disconnect()
        await rig.start()
        # us-1 does not come back at once: what it said last holds until the grace is over.
        for _ in range(20):
            await asyncio.sleep(0.03)
            held = {name: r.version for name, r in dns.resources.items()}
            assert held == before
        node = await rig.node("us-1")
        assert node.condition == node_pb2.NODE_CONDITION_READY
        rig.hosts["us-1"].connect()
        await until(lambda: rig.hosts["us-1"].link.connected, "us-1 is back")
        await until(lambda: dns.link.connected, "dns-1 is back")
        await rig.condition("us-1", node_pb2.NODE_CONDITION_READY)
        assert set(rig.hosts["us-1"].started) == {"replicas/hello/1/1"}
        assert {name: r.version for name, r in dns.resources.items()} == before


async def test_a_rollout_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        host = await rig.host("eu-1", "eu")
        host.behave = lambda replica: (False, "starting")
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
        await until(lambda: host.running, "a replica is placed")
        await rig.stop()
        await rig.start()
        host.behave = lambda replica: (True, "")
        host.act()
        assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
        assert len(host.started) == 1


async def test_a_node_that_never_comes_back_is_suspected_after_the_grace(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        host = await rig.host("eu-1", "eu")
        await rig.stop()
        await host.disconnect()
        await rig.start()
        await rig.condition("eu-1", node_pb2.NODE_CONDITION_SUSPECT)
