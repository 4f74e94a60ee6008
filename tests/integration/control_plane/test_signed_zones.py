"""Signed zones: keys are made, replaced and deleted, reach DNS servers, and are seen by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import field_mask_pb2

from locci.v1 import access_pb2, access_pb2_grpc, event_pb2, resource_pb2, routing_pb2, zone_pb2
from tests.integration.control_plane.rig import Host, Rig, running, until

ZONE = "zones/example.net"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        yield rig


async def sign(rig: Rig, dnssec: bool) -> zone_pb2.Zone:
    mask = field_mask_pb2.FieldMask(paths=["dnssec"])
    request = zone_pb2.UpdateZoneRequest(zone=zone_pb2.Zone(name=ZONE, dnssec=dnssec), update_mask=mask)
    return await rig.zones.UpdateZone(request)


async def keys_at(host: Host, count: int) -> list[resource_pb2.ZoneKey]:
    def keys() -> list[resource_pb2.ZoneKey]:
        resource = host.resources.get("zonekeys/example.net")
        return list(resource.zone_keys.keys) if resource is not None else []

    await until(lambda: len(keys()) == count, f"{count} keys")
    return keys()


async def test_the_life_of_keys(rig: Rig) -> None:
    host = await rig.host("dns-1", "eu", dns=True)
    edge = await rig.host("eu-1", "eu")
    zone = await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    assert (zone.dnssec, list(zone.ds)) == (False, [])
    zone = await sign(rig, True)
    (first,) = zone.ds
    assert first.split()[1:3] == ["13", "2"]
    (key,) = await keys_at(host, 1)
    assert key.active
    assert "zonekeys/example.net" not in edge.resources

    both = await rig.zones.AddZoneKey(zone_pb2.AddZoneKeyRequest(name=ZONE))
    assert both.ds[0] == first
    await keys_at(host, 2)
    with pytest.raises(grpc.aio.AioRpcError, match="has no key 70000"):
        await rig.zones.RetireZoneKey(zone_pb2.RetireZoneKeyRequest(name=ZONE, key_tag=70000))
    left = await rig.zones.RetireZoneKey(zone_pb2.RetireZoneKeyRequest(name=ZONE, key_tag=int(first.split()[0])))
    assert list(left.ds) == [both.ds[1]]
    (second,) = await keys_at(host, 1)
    assert second.private_key != key.private_key
    with pytest.raises(grpc.aio.AioRpcError, match="is the last key"):
        await rig.zones.RetireZoneKey(zone_pb2.RetireZoneKeyRequest(name=ZONE, key_tag=int(left.ds[0].split()[0])))

    await rig.stop()
    await rig.start()
    assert list((await rig.zones.GetZone(zone_pb2.GetZoneRequest(name=ZONE))).ds) == list(left.ds)
    assert list((await sign(rig, False)).ds) == []
    await keys_at(host, 0)
    with pytest.raises(grpc.aio.AioRpcError, match="is not signed"):
        await rig.zones.AddZoneKey(zone_pb2.AddZoneKeyRequest(name=ZONE))


async def test_a_key_is_seen_by_dns_servers_only(rig: Rig) -> None:
    host = await rig.host("dns-1", "eu", dns=True)
    await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net", zone=zone_pb2.Zone(dnssec=True)))
    (key,) = await keys_at(host, 1)
    table = await rig.routing.GetRoutingTable(routing_pb2.GetRoutingTableRequest())
    audit = access_pb2_grpc.AuditServiceStub(rig.channel)
    said = [
        (await rig.zones.ListZones(zone_pb2.ListZonesRequest())).SerializeToString(),
        table.SerializeToString(),
        (await rig.events.ListEvents(event_pb2.ListEventsRequest())).SerializeToString(),
        (await audit.ListAuditRecords(access_pb2.ListAuditRecordsRequest())).SerializeToString(),
    ]
    await rig.stop()
    try:
        files = [path.read_bytes() for path in rig.settings.data_dir.rglob("*") if path.is_file()]
    finally:
        await rig.start()
    assert len(files) > 4
    for content in (*said, *files):
        assert key.private_key not in content
        assert key.private_key.hex().encode() not in content


async def test_bad_requests(rig: Rig) -> None:
    await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    with pytest.raises(grpc.aio.AioRpcError, match="only contact, dnssec, negative_ttl, ttl of a zone can be changed"):
        await rig.zones.UpdateZone(
            zone_pb2.UpdateZoneRequest(
                zone=zone_pb2.Zone(name=ZONE), update_mask=field_mask_pb2.FieldMask(paths=["ds"])
            )
        )
    with pytest.raises(grpc.aio.AioRpcError, match="was changed meanwhile"):
        await rig.zones.UpdateZone(zone_pb2.UpdateZoneRequest(zone=zone_pb2.Zone(name=ZONE, contact="a@b.c", etag="1")))
    with pytest.raises(grpc.aio.AioRpcError, match=r"not found|does not exist|no zones"):
        await rig.zones.UpdateZone(
            zone_pb2.UpdateZoneRequest(zone=zone_pb2.Zone(name="zones/example.org", dnssec=True))
        )
    dry = zone_pb2.UpdateZoneRequest(zone=zone_pb2.Zone(name=ZONE, dnssec=True), validate_only=True)
    assert (await rig.zones.UpdateZone(dry)).dnssec
    assert not (await rig.zones.GetZone(zone_pb2.GetZoneRequest(name=ZONE))).dnssec
