"""Drills over the wire: agents are asked for the fault, DNS servers' evidence is measured, and every run ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fleet.signed_report import is_genuine
from locci.v1 import (
    agent_pb2,
    app_pb2,
    drill_pb2,
    event_pb2,
    operation_pb2,
    operation_pb2_grpc,
    release_pb2,
    routing_pb2,
)
from tests.integration.control_plane.rig import Host, Rig, error_of, manifest, running, until

RUN = drill_pb2.DrillRun
PATIENCE_S = 60.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, suspect_after_s=30.0) as rig:
        for region in ("eu", "us", "ap"):
            await rig.region(region)
        yield rig


async def fleet(rig: Rig) -> Host:
    """Two edges with an app, and a DNS server in a third region that has both in rotation."""
    await rig.host("eu-1", "eu", address="192.0.2.1")
    await rig.host("us-1", "us", address="192.0.2.2")
    dns = await rig.host("ap-dns", "ap", dns=True, address="192.0.2.3")
    wanted = manifest()
    wanted.placement.replicas = 2
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    await rig.finished(answer.rollout.name, PATIENCE_S)
    find(dns, **{"eu-1": True, "us-1": True})
    return dns


def find(dns: Host, **found: bool) -> None:
    dns.found = dict(found)
    dns.link.wake()


async def declare(rig: Rig, duration_s: int, fault: drill_pb2.FaultKind.ValueType) -> None:
    target = "regions/eu" if fault == drill_pb2.FAULT_KIND_REGION_CUT else "nodes/eu-1"
    spec = drill_pb2.DrillSpec(fault=fault, target=target, hostname="hello.example.net")
    spec.fault_duration.FromSeconds(duration_s)
    spec.withdraw_objective.FromSeconds(50)
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill_pb2.Drill(spec=spec)))


async def begin(rig: Rig) -> RUN:
    """The run, as soon as the DNS server's first evidence is in."""

    async def could() -> bool:
        try:
            await rig.drills.RunDrill(drill_pb2.RunDrillRequest(name="drills/cut", validate_only=True))
        except grpc.aio.AioRpcError as error:
            if "in rotation" in str(error.details()) or "no DNS server" in str(error.details()):
                return False
            raise
        return True

    await until(could, "it could begin", PATIENCE_S)
    return await rig.drills.RunDrill(drill_pb2.RunDrillRequest(name="drills/cut"))


async def in_state(rig: Rig, *states: int) -> RUN:
    async def reached() -> RUN | None:
        row = await rig.drills.GetDrillRun(drill_pb2.GetDrillRunRequest(name="drills/cut/runs/1"))
        return row if row.state in states else None

    found: RUN = await until(reached, f"a state of {states}", PATIENCE_S)
    return found


async def test_a_run_is_measured_and_judged(rig: Rig) -> None:
    dns = await fleet(rig)
    await declare(rig, 8, drill_pb2.FAULT_KIND_REGION_CUT)
    begun = await begin(rig)
    assert (begun.name, begun.state) == ("drills/cut/runs/1", RUN.STATE_STARTING)
    eu, us = rig.hosts["eu-1"], rig.hosts["us-1"]
    await until(lambda: "faults/cut/1" in eu.resources, "the target is asked")
    assert "faults/cut/1" not in us.resources
    fault = eu.resources["faults/cut/1"].fault
    assert (fault.run, fault.duration.seconds) == (begun.name, 8)
    error = await error_of(rig.drills.RunDrill(drill_pb2.RunDrillRequest(name="drills/cut")))
    assert "one drill at a time" in str(error.details())
    error = await error_of(rig.drills.DeleteDrill(drill_pb2.DeleteDrillRequest(name="drills/cut")))
    assert "goes on" in str(error.details())
    await until(lambda: "drillclients/cut/1" in us.resources, "a host elsewhere is asked to be clients")
    assert "drillclients/cut/1" not in eu.resources
    asked = us.resources["drillclients/cut/1"].drill_client
    assert [(a.region, a.address) for a in asked.askers] == [("regions/us", ""), ("regions/eu", "192.0.2.1")]
    assert asked.name_servers == ["192.0.2.3"]
    counts = agent_pb2.DrillClientCounts(
        resource="drillclients/cut/1", region="regions/eu", requests=20, failed=3, last_failure="192.0.2.1: no answer"
    )
    counts.longest_gap.FromSeconds(4)
    us.counts = [counts]
    eu.tell("FaultBegan", begun.name, "it began")
    eu.tell("FaultEnded", begun.name, "it was undone")
    await in_state(rig, RUN.STATE_FAULTY)
    find(dns, **{"eu-1": False, "us-1": True})
    await in_state(rig, RUN.STATE_RECOVERING)
    await until(lambda: "faults/cut/1" not in eu.resources, "the target is no longer asked")
    find(dns, **{"eu-1": True, "us-1": True})
    ended = await in_state(rig, RUN.STATE_PASSED, RUN.STATE_FAILED, RUN.STATE_ABORTED)
    assert ended.state == RUN.STATE_PASSED, ended
    assert [mark.stage for mark in ended.marks] == ["fault", "detected", "withdrawn", "healed", "restored"]
    assert ended.passed
    assert (ended.requests, ended.failed_requests, ended.clients[0].longest_gap.seconds) == (20, 3, 4)
    await until(lambda: "drillclients/cut/1" not in us.resources, "nobody is to ask any more")
    assert is_genuine(rig.plane.authority.ca_pem, ended.signed_report, ended.signature)
    assert json.loads(ended.signed_report)["state"] == "STATE_PASSED"
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    answer = await operations.ListOperations(operation_pb2.ListOperationsRequest(filter="kind = drill"))
    assert answer.operations[0].state == operation_pb2.LongRunningOperation.STATE_SUCCEEDED


async def test_it_survives_a_restart_and_can_be_aborted(rig: Rig) -> None:
    await fleet(rig)
    await declare(rig, 600, drill_pb2.FAULT_KIND_INBOUND_CUT)
    await begin(rig)
    await in_state(rig, RUN.STATE_FAULTY)
    await rig.stop()
    await rig.start()
    name, eu = "drills/cut/runs/1", rig.hosts["eu-1"]
    assert (await in_state(rig, RUN.STATE_FAULTY)).name == name
    assert "faults/cut/1" in eu.resources
    aborted = await rig.drills.AbortDrillRun(drill_pb2.AbortDrillRunRequest(name=name, reason="enough"))
    assert aborted.state == RUN.STATE_RECOVERING
    assert aborted.abort_reason.endswith("enough")
    await until(lambda: "faults/cut/1" not in eu.resources, "the target is told", PATIENCE_S)


async def test_it_does_not_begin_where_clients_would_not_be_served(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    await declare(rig, 3, drill_pb2.FAULT_KIND_NODE_CUT)
    error = await error_of(rig.drills.RunDrill(drill_pb2.RunDrillRequest(name="drills/cut")))
    assert "nowhere else is a healthy replica" in str(error.details())
    assert "no DNS server" in str(error.details())
    runs = await rig.drills.ListDrillRuns(drill_pb2.ListDrillRunsRequest(parent="drills/cut"))
    assert not runs.runs


async def test_a_schedule_begins_it_or_says_why_not(rig: Rig) -> None:
    await declare(rig, 3, drill_pb2.FAULT_KIND_REGION_CUT)
    drill = await rig.drills.GetDrill(drill_pb2.GetDrillRequest(name="drills/cut"))
    drill.spec.schedule = "61 * * * *"
    error = await error_of(rig.drills.UpdateDrill(drill_pb2.UpdateDrillRequest(drill=drill)))
    assert "'61' is not from 0 to 59" in str(error.details())
    drill.spec.schedule = "* * * * *"
    drill.spec.blocked.append("00:00-24:00")
    changed = await rig.drills.UpdateDrill(drill_pb2.UpdateDrillRequest(drill=drill))
    assert changed.spec.blocked == drill.spec.blocked

    async def said() -> str:
        answer = await rig.events.ListEvents(event_pb2.ListEventsRequest(type="DrillNotBegun"))
        return answer.events[0].message if answer.events else ""

    message = await until(said, "it says why it did not begin", PATIENCE_S)
    assert "blocked window, 00:00-24:00" in message
    assert "no node with an edge" in message
    known = await rig.drills.GetDrill(drill_pb2.GetDrillRequest(name="drills/cut"))
    assert known.scheduled_time.seconds % 60 == 0
    assert not known.last_run


async def test_an_agent_that_does_not_inject_it_ends_the_run(rig: Rig) -> None:
    await fleet(rig)
    await declare(rig, 600, drill_pb2.FAULT_KIND_NODE_CUT)
    await begin(rig)
    eu = rig.hosts["eu-1"]
    await until(lambda: "faults/cut/1" in eu.resources, "the target is asked")
    eu.tell("FaultRefused", "drills/cut/runs/1", "this host's policy does not allow it")
    ended = await in_state(rig, RUN.STATE_RECOVERING, RUN.STATE_ABORTED)
    assert "eu-1: this host's policy" in ended.abort_reason


async def test_the_slowest_dns_server_decides_the_bound(rig: Rig) -> None:
    for node, proven_s in (("dns-8", 2.15), ("dns-9", 4.15)):
        host = await rig.host(node, "eu", dns=True)
        await host.disconnect()
        host.cut_proven_s = proven_s
        host.connect()

    async def told_s() -> float:
        table = await rig.routing.GetRoutingTable(routing_pb2.GetRoutingTableRequest())
        return table.cut_proven_within.seconds + table.cut_proven_within.nanos / 1e9

    async def slowest() -> bool:
        return await told_s() == 4.15

    await until(slowest, "the bound of the slower one")
    rig.hosts["dns-9"].proven_now_s = 2.45
    rig.hosts["dns-9"].link.wake()

    async def by_its_heartbeat() -> bool:
        return await told_s() == 2.45

    await until(by_its_heartbeat, "its heartbeat takes the place of its settings")
    await declare(rig, 3, drill_pb2.FAULT_KIND_REGION_CUT)
    run = await rig.drills.CreateDrillRun(drill_pb2.CreateDrillRunRequest(parent="drills/cut", run=RUN()))
    assert run.cut_proven_within.ToTimedelta().total_seconds() == 2.45, "the report shows the same as the table"


async def test_a_drill_of_several_steps_is_one_run_with_one_report(rig: Rig) -> None:
    dns = await fleet(rig)
    spec = drill_pb2.DrillSpec(hostname="hello.example.net")
    spec.withdraw_objective.FromSeconds(50)
    first = spec.steps.add(fault=drill_pb2.FAULT_KIND_REGION_CUT, targets=["regions/eu"], title="eu is cut off")
    first.fault_duration.FromSeconds(3)
    second = spec.steps.add(fault=drill_pb2.FAULT_KIND_PROGRAM_KILLED, targets=["nodes/us-1"], program="redis")
    second.start_offset.FromSeconds(4)
    second.fault_duration.FromSeconds(2)
    drill = drill_pb2.Drill(spec=spec)
    drill.spec.steps[1].program = "sshd"
    error = await error_of(rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill)))
    assert "drill.spec.steps[1].program: 'sshd' is none of" in str(error.details())
    drill.spec.steps[1].program = "redis"
    drill.spec.steps[1].start_offset.FromSeconds(2)
    drill.spec.steps[1].fault = drill_pb2.FAULT_KIND_NODE_CUT
    drill.spec.steps[1].targets[:] = ["nodes/eu-1"]
    drill.spec.steps[1].program = ""
    error = await error_of(rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill)))
    assert "two faults at once of the firewall on nodes/eu-1" in str(error.details())
    drill.spec.steps[1].CopyFrom(second)
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill))
    begun = await begin(rig)
    eu, us = rig.hosts["eu-1"], rig.hosts["us-1"]
    await until(lambda: "faults/cut/1" in eu.resources and "faults/cut/1/2" in us.resources, "both are asked at once")
    asked = us.resources["faults/cut/1/2"].fault
    assert (asked.run, asked.program, asked.start_offset.seconds) == (begun.name, "redis", 4)
    await in_state(rig, RUN.STATE_FAULTY)
    find(dns, **{"eu-1": False, "us-1": True})

    async def withdrawn() -> bool:
        row = await rig.drills.GetDrillRun(drill_pb2.GetDrillRunRequest(name=begun.name))
        return any(mark.stage == "withdrawn" and mark.step == 1 for mark in row.marks)

    await until(withdrawn, "the first step is seen", PATIENCE_S)
    find(dns, **{"eu-1": True, "us-1": True})
    eu.tell("FaultEnded", begun.name, "undone")
    us.tell("FaultBegan", begun.name, "began", resource="faults/cut/1/2")
    row = await in_state(rig, RUN.STATE_RECOVERING)
    us.tell("FaultEnded", begun.name, "undone", resource="faults/cut/1/2")
    row = await in_state(rig, RUN.STATE_PASSED, RUN.STATE_FAILED, RUN.STATE_ABORTED)
    assert row.state == RUN.STATE_PASSED, row
    assert [m.stage for m in row.marks if m.step == 1] == ["fault", "detected", "withdrawn", "healed", "restored"]
    assert [m.stage for m in row.marks if m.step == 2] == ["fault", "healed", "restored"]
    assert list(row.begun) == list(row.undone) == ["nodes/eu-1 faults/cut/1", "nodes/us-1 faults/cut/1/2"]
    # Words of two nodes arrive in either order, those of one in the order said.
    said = sorted(((word.node, word.text) for word in row.said), key=lambda word: word[0])
    assert said == [("nodes/eu-1", "undone"), ("nodes/us-1", "began"), ("nodes/us-1", "undone")]


async def test_a_bad_release_must_roll_back_by_itself(rig: Rig) -> None:
    await fleet(rig)
    for host in ("eu-1", "us-1"):
        # What asks for its health at a port of its own never gets it.
        rig.hosts[host].behave = lambda replica: (len(replica.ports) < 2, "connection refused")
    spec = drill_pb2.DrillSpec(
        fault=drill_pb2.FAULT_KIND_BAD_RELEASE, target="apps/hello", hostname="hello.example.net"
    )
    spec.fault_duration.FromSeconds(20)
    drill = drill_pb2.Drill(spec=spec)
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill))
    begun = await rig.drills.RunDrill(drill_pb2.RunDrillRequest(name="drills/cut"))
    row = await in_state(rig, RUN.STATE_PASSED, RUN.STATE_FAILED, RUN.STATE_ABORTED)
    assert row.state == RUN.STATE_PASSED, row
    assert [m.stage for m in row.marks] == ["fault", "detected", "rolled-back", "healed", "restored"]
    rollout = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=row.rollouts[1]))
    assert rollout.state == release_pb2.ROLLOUT_STATE_ROLLED_BACK
    assert begun.name in (await rig.releases.GetRelease(release_pb2.GetReleaseRequest(name=rollout.to_release))).creator
    app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
    assert (app.target_release, app.latest_release) == ("apps/hello/releases/1", "apps/hello/releases/1")
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app.manifest))
    assert answer.unchanged


async def test_guards_call_a_run_off_when_clients_fail_or_regions_fall(rig: Rig) -> None:
    await fleet(rig)
    spec = drill_pb2.DrillSpec(fault=drill_pb2.FAULT_KIND_NODE_CUT, target="nodes/eu-1", hostname="hello.example.net")
    spec.fault_duration.FromSeconds(600)
    spec.max_failed_percent = 20
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="cut", drill=drill_pb2.Drill(spec=spec)))
    await begin(rig)
    await in_state(rig, RUN.STATE_FAULTY)
    us = rig.hosts["us-1"]
    us.counts = [agent_pb2.DrillClientCounts(resource="drillclients/cut/1", region="regions/eu", requests=20, failed=5)]
    row = await in_state(rig, RUN.STATE_RECOVERING)
    assert "5 of 20 requests of clients failed, more than 20 %" in row.abort_reason
    assert [s.requests for s in row.clients[0].samples] == [20]
    await until(lambda: "faults/cut/1" not in rig.hosts["eu-1"].resources, "the target is told", PATIENCE_S)


async def test_a_run_is_called_off_when_too_few_regions_serve(rig: Rig) -> None:
    """The only region besides the target loses its replica while the fault is in effect."""
    await fleet(rig)
    await declare(rig, 600, drill_pb2.FAULT_KIND_NODE_CUT)
    await begin(rig)
    eu, us = rig.hosts["eu-1"], rig.hosts["us-1"]
    await until(lambda: "faults/cut/1" in eu.resources, "the target is asked")
    eu.tell("FaultBegan", "drills/cut/runs/1", "it began")
    await in_state(rig, RUN.STATE_FAULTY)
    us.behave = lambda replica: (False, "it answers 500")
    us.act()
    row = await in_state(rig, RUN.STATE_RECOVERING)
    assert "nowhere else is a healthy replica of the hostname's app" in row.abort_reason
    await until(lambda: "faults/cut/1" not in eu.resources, "the target is told", PATIENCE_S)
    events = await rig.events.ListEvents(event_pb2.ListEventsRequest(type="DrillRunRecovering"))
    assert "called off: nowhere else" in events.events[0].message


async def test_the_oldest_runs_go_when_there_are_many(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.drills.RUNS_KEPT", 2)
    await declare(rig, 3, drill_pb2.FAULT_KIND_REGION_CUT)
    for _ in range(3):
        await rig.drills.CreateDrillRun(drill_pb2.CreateDrillRunRequest(parent="drills/cut", run=RUN()))
    answer = await rig.drills.ListDrillRuns(drill_pb2.ListDrillRunsRequest(parent="drills/cut"))
    assert [row.name for row in answer.runs] == ["drills/cut/runs/3", "drills/cut/runs/2"]
