"""The operators' services: pages, etags, masks, repeats, dry runs, bad input."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleet.rpc.errors import from_rpc_error
from locci.v1 import (
    app_pb2,
    drill_pb2,
    enrolment_pb2,
    event_pb2,
    node_pb2,
    region_pb2,
    release_pb2,
    replica_pb2,
    routing_pb2,
    zone_pb2,
)
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        yield rig


async def reason_of(call: Any) -> tuple[str, str, str]:
    error = from_rpc_error(await error_of(call))
    return error.code.name, error.reason, error.field


async def test_lists_come_in_pages(rig: Rig) -> None:
    for name in ("ap", "sa", "us"):
        await rig.region(name)
    names: list[str] = []
    token = ""
    while True:
        answer = await rig.regions.ListRegions(region_pb2.ListRegionsRequest(page_size=3, page_token=token))
        names += [r.name for r in answer.regions]
        token = answer.next_page_token
        if not token:
            break
    assert names == ["regions/ap", "regions/eu", "regions/sa", "regions/us"]
    bad = rig.regions.ListRegions(region_pb2.ListRegionsRequest(page_token="%%%"))
    assert (await reason_of(bad))[2] == "page_token"
    assert (await reason_of(rig.regions.ListRegions(region_pb2.ListRegionsRequest(page_size=-1))))[2] == "page_size"


async def test_a_lost_update_is_refused(rig: Rig) -> None:
    region = await rig.regions.GetRegion(region_pb2.GetRegionRequest(name="regions/eu"))
    change = region_pb2.Region(name=region.name, etag=region.etag, display_name="Frankfurt")
    changed = await rig.regions.UpdateRegion(region_pb2.UpdateRegionRequest(region=change))
    assert (changed.display_name, changed.latitude) == ("Frankfurt", 50.1)
    assert changed.etag != region.etag
    again = rig.regions.UpdateRegion(region_pb2.UpdateRegionRequest(region=change))
    assert await reason_of(again) == ("ABORTED", "ETAG_MISMATCH", "etag")


async def test_a_field_mask_says_what_is_taken(rig: Rig) -> None:
    change = region_pb2.Region(name="regions/eu", display_name="x", latitude=1.0)
    request = region_pb2.UpdateRegionRequest(region=change, update_mask=FieldMask(paths=["latitude", "country"]))
    changed = await rig.regions.UpdateRegion(request)
    assert (changed.latitude, changed.display_name) == (1.0, "")
    request.update_mask.paths[:] = ["revision"]
    assert (await reason_of(rig.regions.UpdateRegion(request)))[2] == "update_mask"


@pytest.mark.parametrize(
    ("region", "field"),
    [
        (region_pb2.Region(latitude=91), "region.latitude"),
        (region_pb2.Region(longitude=float("nan")), "region.longitude"),
        (region_pb2.Region(continent="XX"), "region.continent"),
        (region_pb2.Region(country="de"), "region.country"),
        (region_pb2.Region(networks=["192.0.2.1/24"]), "region.networks[0]"),
    ],
)
async def test_an_impossible_region_is_refused(rig: Rig, region: region_pb2.Region, field: str) -> None:
    call = rig.regions.CreateRegion(region_pb2.CreateRegionRequest(region_id="xx", region=region))
    assert await reason_of(call) == ("INVALID_ARGUMENT", "INVALID_FIELD", field)


async def test_a_request_sent_twice_acts_once(rig: Rig) -> None:
    request = app_pb2.ApplyAppRequest(manifest=manifest(), request_id=str(uuid.uuid4()))
    first, second = await asyncio.gather(rig.apps.ApplyApp(request), rig.apps.ApplyApp(request))
    assert first == second
    assert (first.release.number, first.unchanged) == (1, False)
    other = app_pb2.ApplyAppRequest(manifest=manifest("other"), request_id=request.request_id)
    assert (await reason_of(rig.apps.ApplyApp(other)))[1] == "REQUEST_ID_REUSED"


async def test_an_unchanged_manifest_makes_no_release_and_a_moved_tag_does(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    again = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    assert again.unchanged
    rig.registry.push("registry.test:5000/hello:1", "new content")
    moved = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    assert moved.release.number == 2
    assert (await rig.finished(moved.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    first = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name="apps/hello/rollouts/1"))
    assert first.state in (release_pb2.ROLLOUT_STATE_SUPERSEDED, release_pb2.ROLLOUT_STATE_SUCCEEDED)


async def test_hostnames_change_without_touching_a_container(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(answer.rollout.name)
    changed = manifest()
    changed.hostnames.append("also.example.net")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=changed))
    assert answer.release.number == 2
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    await until(lambda: len(host.resources["routes/hello"].route.hostnames) == 2, "the new hostname")
    assert host.started == ["replicas/hello/0/1"]


async def test_a_dry_run_says_what_would_happen_and_does_nothing(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    await rig.region("us")
    request = app_pb2.ApplyAppRequest(manifest=manifest(), validate_only=True)
    answer = await rig.apps.ApplyApp(request)
    planned = [(c.action, c.replica, c.node) for c in answer.changes]
    assert planned == [
        (app_pb2.PlannedChange.ACTION_START, "apps/hello/replicas/0-1", "nodes/eu-1"),
        (app_pb2.PlannedChange.ACTION_UNPLACEABLE, "apps/hello/replicas/1-1", ""),
    ]
    assert (await reason_of(rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))))[0] == "NOT_FOUND"


async def test_bad_manifests_name_the_field(rig: Rig) -> None:
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest("first")))
    taken = manifest("second")
    taken.hostnames[:] = ["FIRST.example.net"]
    assert (await reason_of(rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=taken)))) == (
        "INVALID_ARGUMENT",
        "HOSTNAME_TAKEN",
        "manifest.hostnames[0]",
    )
    missing = manifest("third", image="registry.test:5000/missing:1")
    assert (await reason_of(rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=missing))))[1] == "IMAGE_NOT_FOUND"
    assert (await reason_of(rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/third"))))[0] == "NOT_FOUND"


async def test_a_region_in_use_stays(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    call = rig.regions.DeleteRegion(region_pb2.DeleteRegionRequest(name="regions/eu"))
    assert (await reason_of(call))[1] == "REGION_IN_USE"
    call = rig.nodes.DeleteNode(node_pb2.DeleteNodeRequest(name="nodes/eu-1"))
    assert (await reason_of(call))[1] == "NODE_IN_USE"


async def test_a_cordoned_node_gets_nothing_new(rig: Rig) -> None:
    for name in ("eu-1", "eu-2"):
        await rig.host(name, "eu")
    await rig.nodes.CordonNode(node_pb2.CordonNodeRequest(name="nodes/eu-1"))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(answer.rollout.name)
    assert [r.node for r in await rig.held("hello")] == ["nodes/eu-2"]


async def test_an_operator_goes_back_and_ends_rollouts(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    for text in ("1", "2"):
        release = manifest()
        release.env["RELEASE"] = text
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=release))
        await rig.finished(answer.rollout.name)
    back = await rig.rollouts.RollbackApp(release_pb2.RollbackAppRequest(name="apps/hello"))
    assert back.to_release == "apps/hello/releases/1"
    assert (await rig.finished(back.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    host.behave = lambda replica: (replica.release == 1, "")
    release = manifest()
    release.env["RELEASE"] = "3"
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=release))
    await rig.rollouts.AbortRollout(release_pb2.AbortRolloutRequest(name=answer.rollout.name))
    ended = await rig.finished(answer.rollout.name)
    assert ended.state == release_pb2.ROLLOUT_STATE_ABORTED
    call = rig.rollouts.AbortRollout(release_pb2.AbortRolloutRequest(name=answer.rollout.name))
    assert (await reason_of(call))[1] == "ROLLOUT_ENDED"
    listed = await rig.releases.ListReleases(release_pb2.ListReleasesRequest(parent="apps/hello"))
    assert [r.number for r in listed.releases] == [3, 2, 1]


async def test_events_are_followed_without_a_gap(rig: Rig) -> None:
    seen: list[str] = []
    call = rig.events.WatchEvents(event_pb2.WatchEventsRequest(after_sequence=1))

    async def read() -> None:
        async for event in call:
            seen.append(event.name)  # noqa: PERF401

    reading = asyncio.create_task(read())
    for number in range(20):
        await rig.region(f"r{number}")
    await until(lambda: len(seen) >= 20, "the events")
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    numbers = [int(name.partition("/")[2]) for name in seen]
    assert numbers == list(range(2, 2 + len(numbers)))
    event = await rig.events.GetEvent(event_pb2.GetEventRequest(name=seen[3]))
    assert event.name == seen[3]
    page = await rig.events.ListEvents(event_pb2.ListEventsRequest(page_size=5))
    more = await rig.events.ListEvents(event_pb2.ListEventsRequest(page_size=5, page_token=page.next_page_token))
    numbers = [int(e.name.partition("/")[2]) for e in (*page.events, *more.events)]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == 10


async def test_a_drill_is_judged_by_its_objectives(rig: Rig) -> None:
    spec = drill_pb2.DrillSpec(fault=drill_pb2.FAULT_KIND_REGION_CUT, target="regions/eu", hostname="hello.example.net")
    spec.withdraw_objective.FromSeconds(3)
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut-eu", drill=drill_pb2.Drill(spec=spec)))

    async def record(withdrawn_s: float) -> drill_pb2.DrillRun:
        run = drill_pb2.DrillRun(requests=10)
        for stage, after in (("withdrawn", withdrawn_s), ("rerouted", 4.0), ("restored", 20.0)):
            run.marks.add(stage=stage).after.FromMilliseconds(int(after * 1000))
        return await rig.drills.CreateDrillRun(drill_pb2.CreateDrillRunRequest(parent="drills/cut-eu", run=run))

    good, bad = await record(2.0), await record(3.5)
    assert (good.name, good.passed) == ("drills/cut-eu/runs/1", True)
    assert not bad.passed
    assert "3.500 s" in bad.failures[0]
    runs = await rig.drills.ListDrillRuns(drill_pb2.ListDrillRunsRequest(parent="drills/cut-eu"))
    assert [r.name for r in runs.runs] == ["drills/cut-eu/runs/2", "drills/cut-eu/runs/1"]
    call = rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="bad"))
    assert (await reason_of(call))[2] == "drill.spec.fault"
    await rig.drills.DeleteDrill(drill_pb2.DeleteDrillRequest(name="drills/cut-eu"))


async def test_tokens_and_replicas_and_zones_are_listed(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    tokens = await rig.tokens.ListJoinTokens(enrolment_pb2.ListJoinTokensRequest())
    assert tokens.join_tokens[0].used_by == "nodes/eu-1"
    assert tokens.join_tokens[0].token == ""
    await rig.tokens.DeleteJoinToken(enrolment_pb2.DeleteJoinTokenRequest(name=tokens.join_tokens[0].name))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(answer.rollout.name)
    replica = await rig.replicas.GetReplica(replica_pb2.GetReplicaRequest(name="apps/hello/replicas/0-1"))
    assert (replica.accepted, replica.applied, replica.healthy) == (True, True, True)
    every = await rig.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent="apps/-", node="nodes/eu-1"))
    assert len(every.replicas) == 1
    await rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    zones = await rig.zones.ListZones(zone_pb2.ListZonesRequest())
    assert [z.name for z in zones.zones] == ["zones/example.net"]


async def test_the_routing_table_is_watched(rig: Rig) -> None:
    call = rig.routing.WatchRoutingTable(routing_pb2.GetRoutingTableRequest())
    first = await asyncio.wait_for(call.read(), 10)
    assert [r.region for r in first.regions] == ["eu"]
    await rig.region("us")
    second = await asyncio.wait_for(call.read(), 10)
    assert [r.region for r in second.regions] == ["eu", "us"]
    call.cancel()


async def test_health_is_served(rig: Rig) -> None:
    answer = await health_pb2_grpc.HealthStub(rig.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    error = await error_of(rig.channel.unary_unary("/locci.v1.NoService/No")(b""))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
