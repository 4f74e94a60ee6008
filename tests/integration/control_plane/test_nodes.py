"""Lost nodes, refused snapshots, evidence, the brake: over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import app_pb2, event_pb2, manifest_pb2, node_pb2, region_pb2, release_pb2, zone_pb2
from tests.integration.control_plane.rig import Host, Rig, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        await rig.region("us", 40.7, -74.0)
        yield rig


async def kinds(rig: Rig) -> list[str]:
    answer = await rig.events.ListEvents(event_pb2.ListEventsRequest(page_size=500, ascending=True))
    return [event.type for event in answer.events]


def patient(seconds: int = 3) -> manifest_pb2.AppManifest:
    result = manifest()
    result.placement.regions.append("eu")
    result.placement.lost_after.FromSeconds(seconds)
    return result


async def test_replicas_of_a_lost_node_run_elsewhere_and_the_original_goes_when_it_is_back(rig: Rig) -> None:
    for name in ("eu-1", "eu-2", "eu-3"):
        await rig.host(name, "eu")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    await rig.finished(answer.rollout.name)
    (replica,) = await rig.held("hello")
    lost = replica.node.rpartition("/")[2]
    await rig.hosts[lost].disconnect()
    await rig.condition(lost, node_pb2.NODE_CONDITION_SUSPECT)
    assert len(await rig.held("hello")) == 1

    async def replaced() -> bool:
        return any(r.healthy and r.node != replica.node for r in await rig.held("hello"))

    await until(replaced, "a replacement serves")
    rig.hosts[lost].connect()

    async def settled() -> bool:
        held = await rig.held("hello")
        return len(held) == 1 and held[0].node != replica.node and held[0].healthy

    await until(settled, "the original is gone")
    assert rig.hosts[lost].running == {}
    seen = await kinds(rig)
    assert {"NodeSuspect", "NodeLost", "ReplicaDisplaced", "ReplicaPlaced", "ReplicaStopped"} <= set(seen)


async def test_when_most_nodes_go_dark_nothing_moves(rig: Rig) -> None:
    for name in ("eu-1", "eu-2", "eu-3"):
        await rig.host(name, "eu")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    await rig.finished(answer.rollout.name)
    (replica,) = await rig.held("hello")
    holder = replica.node.rpartition("/")[2]
    others = [name for name in rig.hosts if name != holder]
    for name in (holder, others[0]):
        await rig.hosts[name].disconnect()

    async def engaged() -> bool:
        return "BrakeEngaged" in await kinds(rig)

    await until(engaged, "the brake engages")
    await rig.condition(holder, node_pb2.NODE_CONDITION_LOST)
    assert [r.node for r in await rig.held("hello")] == [replica.node]
    for name in (holder, others[0]):
        rig.hosts[name].connect()

    async def released() -> bool:
        return "BrakeReleased" in await kinds(rig)

    await until(released, "the brake is released")
    assert [r.node for r in await rig.held("hello")] == [replica.node]


async def test_a_refused_snapshot_fails_the_rollout_with_the_nodes_reason(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    host.refuse = "replicas/hello/0/1: the disk is full"
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    ended = await rig.finished(answer.rollout.name)
    assert ended.state == release_pb2.ROLLOUT_STATE_FAILED
    assert "the disk is full" in ended.reason
    assert (await rig.node("eu-1")).sessions[0].refused_reason
    assert (await kinds(rig)).count("SnapshotRefused") == 1
    host.refuse = ""
    second = patient()
    second.env["A"] = "1"
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=second))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED


async def test_dns_servers_hold_regions_hostnames_zones_and_each_others_evidence(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    first = await rig.host("dns-1", "eu", dns=True, address="192.0.2.53")
    second = await rig.host("dns-2", "us", dns=True, address="192.0.2.54")
    await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="Example.net."))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    await rig.finished(answer.rollout.name)
    await until(lambda: "hostnames/hello.example.net" in second.resources, "the hostname")

    def healthy() -> int:
        endpoints = second.resources["hostnames/hello.example.net"].hostname.endpoints
        return int(sum(e.healthy_replicas for e in endpoints))

    await until(lambda: healthy() == 1, "a healthy replica")
    zone = second.resources["zones/example.net"].zone
    assert [s.hostname for s in zone.name_servers] == ["dns-1.ns.example.net", "dns-2.ns.example.net"]
    assert zone.serial > 0
    records = zone_pb2.RecordSet(name="zones/example.net/recordSets/MX.@", data=["10 mail"])
    await rig.record_sets.UpdateRecordSet(zone_pb2.UpdateRecordSetRequest(record_set=records))
    await until(lambda: second.resources["zones/example.net"].zone.records, "the records")
    (held,) = second.resources["zones/example.net"].zone.records
    assert (held.owner, held.type, list(held.data)) == ("example.net", "MX", ["10 mail.example.net."])
    assert second.resources["zones/example.net"].zone.serial > zone.serial
    first.found = {"eu-1": False}
    first.link.wake()

    def told() -> bool:
        (edge,) = second.resources["regions/eu"].region.edges
        return [(e.vantage, e.healthy) for e in edge.evidence] == [("nodes/dns-1", False)]

    await until(told, "the other vantage's evidence")
    version = second.resources["regions/eu"].version
    first.link.wake()
    await rig.hosts["eu-1"].disconnect()
    await until(lambda: second.resources["regions/eu"].version != version, "the node's condition")
    (edge,) = second.resources["regions/eu"].region.edges
    assert edge.condition == node_pb2.NODE_CONDITION_SUSPECT
    assert healthy() == 1


async def test_a_deleted_app_is_stopped_and_its_name_is_free(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    await rig.finished(answer.rollout.name)
    await rig.apps.DeleteApp(app_pb2.DeleteAppRequest(name="apps/hello"))
    await until(lambda: not host.running and "routes/hello" not in host.resources, "it is stopped")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    assert answer.release.number == 1
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED


async def test_a_removed_nodes_replicas_are_placed_elsewhere(rig: Rig) -> None:
    for name in ("eu-1", "eu-2"):
        await rig.host(name, "eu")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
    await rig.finished(answer.rollout.name)
    (replica,) = await rig.held("hello")
    await rig.nodes.DeleteNode(node_pb2.DeleteNodeRequest(name=replica.node, force=True))

    async def moved() -> bool:
        held = await rig.held("hello")
        return len(held) == 1 and held[0].node != replica.node and held[0].healthy

    await until(moved, "it runs on the other node")


async def test_the_dns_server_of_a_node_takes_no_replica_away(rig: Rig) -> None:
    edge, dns = node_pb2.NODE_ROLE_EDGE, node_pb2.NODE_ROLE_DNS
    directory = await rig.enrol(await rig.token("eu", roles=[edge, dns]), "eu-1")
    hosts = {
        edge: Host(directory, rig.path / "agent.snapshot", edge, ["replicas", "routes"]),
        dns: Host(directory, rig.path / "dns.snapshot", dns, ["regions", "hostnames", "zones"]),
    }
    try:
        hosts[edge].connect()
        await rig.condition("eu-1", node_pb2.NODE_CONDITION_READY)
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=patient()))
        await rig.finished(answer.rollout.name)
        hosts[dns].connect()

        async def accepted() -> bool:
            return any(s.role == dns and s.accepted_revision for s in (await rig.node("eu-1")).sessions)

        await until(accepted, "the DNS server has spoken")
        assert [replica.healthy for replica in await rig.held("hello")] == [True]
        assert "ReplicaUnhealthy" not in await kinds(rig)
    finally:
        for host in hosts.values():
            await host.disconnect()


async def test_a_region_names_the_version_of_its_agents_and_refuses_what_is_none(rig: Rig) -> None:
    request = region_pb2.UpdateRegionRequest(region=region_pb2.Region(name="regions/eu", agent_version="0.2.0"))
    request.update_mask.paths.append("agent_version")
    assert (await rig.regions.UpdateRegion(request)).agent_version == "0.2.0"
    request.region.agent_version = "../etc"
    with pytest.raises(grpc.aio.AioRpcError, match="is no version"):
        await rig.regions.UpdateRegion(request)
