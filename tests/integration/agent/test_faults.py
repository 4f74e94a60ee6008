"""Faults of drills on a real firewall: they end by the agent's own clock, and whatever becomes of the agent."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest

from agent.adapters.firewall import CHAIN
from lab.preflight import own_program
from locci.v1 import drill_pb2, resource_pb2
from tests.integration.agent.rig import Rig, eventually, named, until

pytestmark = pytest.mark.lab


def fault(run: int, duration_s: int, kind: drill_pb2.FaultKind.ValueType) -> resource_pb2.Resource:
    body = drill_pb2.InjectedFault(run=f"drills/cut/runs/{run}", fault=kind)
    body.duration.FromSeconds(duration_s)
    body.begin_before.FromSeconds(int(time.time()) + 600)
    return named(resource_pb2.Resource(name=f"faults/cut/{run}", fault=body))


async def rules(rig: Rig) -> list[str]:
    """The lines of the host's firewall that are a drill's."""
    found = []
    for program in ("iptables", "ip6tables"):
        argv = rig.host.command(program, "-w", "5", "-S")
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30, check=True)
        found += [line for line in done.stdout.splitlines() if CHAIN in line]
    return found


async def is_cut(rig: Rig) -> bool:
    # Both families' jumps are there: the last rule of the second was written.
    return sum(f"-j {CHAIN}" in line for line in await rules(rig)) == 6


async def is_clean(rig: Rig) -> bool:
    return not await rules(rig)


async def test_a_cut_ends_by_itself_while_nobody_is_in_reach(rig: Rig) -> None:
    rig.start()
    rig.control_plane.want(fault(1, 6, drill_pb2.FAULT_KIND_REGION_CUT))
    await until(lambda: is_cut(rig), "the links are cut")
    found = await rules(rig)
    assert f"-A {CHAIN} -i eth0 -j DROP" in found
    assert f"-A {CHAIN} -o eth0 -j DROP" in found
    assert not any("docker0" in line or " lo " in line for line in found)
    await until(lambda: is_clean(rig), "the cut ends by its time limit")
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
    assert "FaultBegan" in rig.control_plane.events


async def test_what_a_killed_agent_left_is_undone_and_not_begun_again(rig: Rig) -> None:
    rig.start()
    rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_OUTBOUND_CUT))
    await until(lambda: is_cut(rig), "the links are cut")
    await rig.kill()
    assert await is_cut(rig)
    rig.start()
    await until(lambda: is_clean(rig), "the next agent undoes it")
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
    rig.control_plane.want(
        fault(1, 600, drill_pb2.FAULT_KIND_OUTBOUND_CUT), fault(2, 600, drill_pb2.FAULT_KIND_INBOUND_CUT)
    )
    await until(lambda: is_cut(rig), "the second run begins; the first does not")
    assert f"-A {CHAIN} -o eth0 -j DROP" not in await rules(rig)
    await rig.kill()
    config = ("--config", str(rig.folder / "agent.toml"))
    argv = rig.host.command(own_program("locci-agent"), "end-faults", *config)
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "faults/cut/2 is undone\n"
    assert await is_clean(rig)


async def test_a_stopped_agent_leaves_nothing(rig: Rig) -> None:
    rig.start()
    rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_NODE_CUT))
    await until(lambda: is_cut(rig), "the links are cut")
    await rig.stop()
    assert await is_clean(rig)


async def test_the_host_can_forbid_drills(rig: Rig) -> None:
    (rig.folder / "policy.toml").write_text("drills = false\n")
    rig.start()
    rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_NODE_CUT))
    await eventually(lambda: rig.control_plane.nacks, "it is refused")
    assert "replicas" in rig.control_plane.resource_types
    assert "faults" not in rig.control_plane.resource_types, "it does not even ask for them"
    assert "policy (drills)" in rig.control_plane.nacks[0].problems[0].message
    assert await is_clean(rig)
