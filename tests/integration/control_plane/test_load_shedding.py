"""A region whose hosts report too much load sends clients elsewhere, by orders that DNS servers get and obey."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask

from locci.v1 import region_pb2, region_pb2_grpc, resource_pb2, routing_pb2, routing_pb2_grpc
from tests.integration.control_plane.rig import Host, Rig, error_of, running, until


def ordered(dns: Host, region: str) -> int:
    """How many of a hundred clients a DNS server is told to send away from a region."""
    resource = dns.resources.get(f"regions/{region}")
    edges = resource.region.edges if resource is not None else []
    return max((edge.override.percent for edge in edges), default=0)


async def marks(rig: Rig, high: float, low: float) -> region_pb2.Region:
    changed = region_pb2.Region(name="regions/eu", load_high=high, load_low=low)
    mask = FieldMask(paths=["load_high", "load_low"])
    request = region_pb2.UpdateRegionRequest(region=changed, update_mask=mask)
    return await region_pb2_grpc.RegionServiceStub(rig.channel).UpdateRegion(request)


async def test_clients_leave_an_overloaded_region_and_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for region in ("eu", "us"):
            await rig.region(region)
        hot, cool = await rig.host("eu-1", "eu"), await rig.host("us-1", "us")
        dns = await rig.host("us-dns", "us", dns=True)
        sessions, shedding = rig.plane.observed.sessions, rig.plane.shedding

        async def report(host: Host, node: str, load: float) -> None:
            host.load = load
            await until(
                lambda: any(f.heartbeat.load == load for (n, _), f in sessions.items() if n == node), "its load"
            )

        await report(hot, "eu-1", 3.0)
        await shedding.look()
        assert not list(rig.plane.state.overrides), "no marks are set"
        assert "must be below region.load_high" in str((await error_of(marks(rig, 1.0, 2.0))).details())
        await marks(rig, 2.0, 1.0)
        for percent in (10, 20):
            await shedding.look()
            await until(lambda percent=percent: ordered(dns, "eu") == percent, "the DNS server is told")
        assert ordered(dns, "us") == 0
        overrides = routing_pb2_grpc.RoutingOverrideServiceStub(rig.channel)
        listed = await overrides.ListRoutingOverrides(routing_pb2.ListRoutingOverridesRequest())
        assert [(row.creator, row.percent) for row in listed.routing_overrides] == [("load-shedding", 20)]

        await report(cool, "us-1", 0.95)
        await shedding.look()
        assert rig.plane.state.overrides.need("routingOverrides/regions-eu").percent == 20, "the other is busy, too"

        # What an operator orders stands in for it, and it comes back once that is taken back.
        order = routing_pb2.RoutingOverride(target="regions/eu", mode=resource_pb2.OVERRIDE_MODE_DRAIN, percent=55)
        await overrides.SetRoutingOverride(routing_pb2.SetRoutingOverrideRequest(routing_override=order))
        await shedding.look()
        await until(lambda: ordered(dns, "eu") == 55, "the operator's order holds")
        await overrides.DeleteRoutingOverride(
            routing_pb2.DeleteRoutingOverrideRequest(name="routingOverrides/regions-eu")
        )
        await report(cool, "us-1", 0.1)
        await shedding.look()
        await until(lambda: ordered(dns, "eu") == 10, "it begins anew")
        await report(hot, "eu-1", 0.2)
        await shedding.look()
        await until(lambda: ordered(dns, "eu") == 0, "all may come again")
        assert not list(rig.plane.state.overrides)
