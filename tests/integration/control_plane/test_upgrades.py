"""Upgrades of the fleet's agents over the wire: wave by wave, watched, halted, held, ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import event_pb2, node_pb2, operation_pb2, operation_pb2_grpc, region_pb2, upgrade_pb2
from tests.integration.control_plane.rig import Host, Rig, error_of, running, until

UPGRADE = upgrade_pb2.Upgrade
SAYS = node_pb2.AgentUpgrade


class Supervisors:
    """What the hosts' supervisors do: each agent follows what it is told, unless its host is broken or slow."""

    def __init__(self, rig: Rig):
        self.rig = rig
        self.broken: set[str] = set()
        self.slow: set[str] = set()
        self.told: list[str] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            for name, host in self.rig.hosts.items():
                await self._follow(name, host)
            await asyncio.sleep(0.02)

    async def _follow(self, name: str, host: Host) -> None:
        named = [r.agent_version for r in host.resources.values() if r.WhichOneof("body") == "agent_version"]
        if not named or name in self.slow:
            return
        version, request = named[0].version, named[0].request
        if version == host.agent_upgrade.version and request in ("", host.agent_upgrade.request):
            return
        self.told.append(name)
        before, host.agent_upgrade = host.version, SAYS(version=version, request=request, state=SAYS.STATE_TRIED)
        for runs in [version, before] if name in self.broken else [version]:
            await host.disconnect()
            host.version = runs
            host.connect()
        if name in self.broken:
            why = "it ended 3 times, last with exit code 1"
            host.agent_upgrade = SAYS(version=version, request=request, state=SAYS.STATE_TAKEN_BACK, reason=why)
        else:
            host.agent_upgrade = SAYS(version=version, request=request, state=SAYS.STATE_STAYED)
        host.link.wake()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, suspect_after_s=30.0) as rig:
        for region in ("eu", "us"):
            await rig.region(region)
        for node in ("eu-1", "eu-2", "us-1"):
            await rig.host(node, node[:2], version="0.1.0")
        yield rig


@pytest.fixture
async def supervisors(rig: Rig) -> AsyncIterator[Supervisors]:
    supervisors = Supervisors(rig)
    yield supervisors
    await supervisors.close()


async def begin(rig: Rig, version: str = "0.2.0", *waves: upgrade_pb2.UpgradeWave, bake_ms: int = 50) -> UPGRADE:
    wanted = UPGRADE(version=version, waves=waves)
    wanted.bake.FromMilliseconds(bake_ms)
    return await rig.upgrades.CreateUpgrade(upgrade_pb2.CreateUpgradeRequest(upgrade=wanted))


async def ended(rig: Rig, name: str) -> UPGRADE:
    async def has_ended() -> UPGRADE | None:
        row = await rig.upgrades.GetUpgrade(upgrade_pb2.GetUpgradeRequest(name=name))
        return row if row.HasField("end_time") else None

    row: UPGRADE = await until(has_ended, "it ends")
    return row


async def events_of(rig: Rig, subject: str) -> list[event_pb2.Event]:
    return list((await rig.events.ListEvents(event_pb2.ListEventsRequest(subject=subject, ascending=True))).events)


async def test_wave_by_wave_until_every_region_names_the_version(rig: Rig, supervisors: Supervisors) -> None:
    begun = await begin(rig)
    assert (begun.name, begun.state, begun.fleet_nodes) == ("upgrades/1", UPGRADE.STATE_RUNNING, 3)
    row = await ended(rig, begun.name)
    assert (row.state, row.reason) == (UPGRADE.STATE_SUCCEEDED, "3 nodes run 0.2.0")
    assert supervisors.told == ["eu-1", "eu-2", "us-1"]
    assert [told.version_before for told in row.nodes] == ["0.1.0"] * 3
    assert (row.running_nodes, row.waves_begun) == (3, 3)
    for region in ("eu", "us"):
        found = await rig.regions.GetRegion(region_pb2.GetRegionRequest(name=f"regions/{region}"))
        assert found.agent_version == "0.2.0"
    kinds = [event.type for event in await events_of(rig, begun.name)]
    assert kinds == ["UpgradeStarted", *["UpgradeWaveBegan"] * 3, "UpgradeSucceeded"]
    node = await rig.node("eu-1")
    assert (node.agent_upgrade.state, node.wanted_agent_version) == (SAYS.STATE_STAYED, "")
    assert "AgentVersionStayed" in {event.type for event in await events_of(rig, "nodes/eu-1")}
    # One that joins now is told the version by its region.
    late = await rig.host("us-2", "us", version="0.1.0")
    await until(lambda: late.version == "0.2.0", "it follows")


async def test_a_node_that_goes_back_halts_it_and_the_next_upgrade_tries_it_again(
    rig: Rig, supervisors: Supervisors
) -> None:
    supervisors.broken.add("eu-2")
    begun = await begin(rig)
    row = await ended(rig, begun.name)
    assert row.state == UPGRADE.STATE_FAILED
    why = "node eu-2: 0.2.0 was taken back: it ended 3 times, last with exit code 1"
    assert row.reason == f"{why}; 2 nodes were told, no further one is"
    assert supervisors.told == ["eu-1", "eu-2"]
    node = await rig.node("eu-2")
    assert (node.agent_upgrade.state, node.agent_upgrade.reason[:15]) == (SAYS.STATE_TAKEN_BACK, "it ended 3 time")
    told = await events_of(rig, "nodes/eu-2")
    assert {"AgentVersionTakenBack", "UpgradeNodeFailed"} <= {event.type for event in told}
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    operation = await operations.GetOperation(operation_pb2.GetOperationRequest(name="operations/upgrades.1"))
    assert (operation.kind, operation.done) == ("upgrade", True)
    assert operation.state == operation_pb2.LongRunningOperation.STATE_FAILED

    supervisors.broken.clear()
    again = await begin(rig)
    assert (await ended(rig, again.name)).state == UPGRADE.STATE_SUCCEEDED
    assert all(host.version == "0.2.0" for host in rig.hosts.values())


async def test_it_is_held_goes_on_over_a_restart_and_is_ended(rig: Rig, supervisors: Supervisors) -> None:
    supervisors.slow.update(rig.hosts)
    begun = await begin(rig, "0.3.0", upgrade_pb2.UpgradeWave(percent=50))
    pause = upgrade_pb2.PauseUpgradeRequest(name=begun.name)
    await until(lambda: any(host.resources for host in rig.hosts.values()), "somebody is told")
    assert (await rig.upgrades.PauseUpgrade(pause)).state == UPGRADE.STATE_PAUSED
    assert (await error_of(rig.upgrades.PauseUpgrade(pause))).code() == grpc.StatusCode.FAILED_PRECONDITION
    await rig.stop()
    await rig.start()
    supervisors.slow.clear()
    await until(lambda: supervisors.told == ["eu-1", "eu-2"], "those that were told follow, though it is held")
    found = await rig.upgrades.ListUpgrades(upgrade_pb2.ListUpgradesRequest(filter="state = PAUSED"))
    assert [row.name for row in found.upgrades] == [begun.name]

    for request in (
        rig.upgrades.CreateUpgrade(upgrade_pb2.CreateUpgradeRequest(upgrade=UPGRADE(version="0.4.0"))),
        rig.regions.UpdateRegion(
            region_pb2.UpdateRegionRequest(region=region_pb2.Region(name="regions/eu", agent_version="0.4.0"))
        ),
    ):
        assert "upgrades/1 to 0.3.0 goes on" in str((await error_of(request)).details())
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    await operations.CancelOperation(operation_pb2.CancelOperationRequest(name="operations/upgrades.1"))
    row = await ended(rig, begun.name)
    assert row.state == UPGRADE.STATE_ABORTED
    assert row.reason.endswith("2 nodes were told, no further one is")
    assert rig.hosts["us-1"].version == "0.1.0"
    # An operator's word for a region goes before what an upgrade named.
    request = region_pb2.UpdateRegionRequest(region=region_pb2.Region(name="regions/eu", agent_version="0.1.0"))
    request.update_mask.paths.append("agent_version")
    await rig.regions.UpdateRegion(request)
    await until(lambda: rig.hosts["eu-1"].version == rig.hosts["eu-2"].version == "0.1.0", "they go back")


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        (UPGRADE(version="../etc"), "is no version"),
        (UPGRADE(version="1", waves=[upgrade_pb2.UpgradeWave()]), "waves[0]: give one of"),
        (UPGRADE(version="1", waves=[upgrade_pb2.UpgradeWave(percent=101)]), "101 is more than 100"),
        (UPGRADE(version="1", waves=[upgrade_pb2.UpgradeWave(regions=["regions/mars"])]), "regions/mars"),
    ],
)
async def test_what_makes_no_sense_is_refused(rig: Rig, wanted: UPGRADE, what: str) -> None:
    error = await error_of(rig.upgrades.CreateUpgrade(upgrade_pb2.CreateUpgradeRequest(upgrade=wanted)))
    assert what in str(error.details())


async def test_without_an_agent_that_could_follow_nothing_begins(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        await rig.host("eu-1", "eu")
        error = await error_of(begin(rig))
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "without `locci-agent supervise`" in str(error.details())
