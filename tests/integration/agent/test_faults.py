"""Faults of drills on a real firewall: they end by the agent's own clock, and whatever becomes of the agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2

from agent.adapters.ballast import NAME
from agent.adapters.firewall import CHAIN
from agent.adapters.shaper import HANDLE
from agent.faults import JOURNAL_NAME
from lab.machine import clean_environment
from lab.preflight import own_program
from locci.v1 import drill_pb2, resource_pb2
from tests.integration.agent.rig import Rig, eventually, named, until

pytestmark = pytest.mark.lab


def fault(run: int, duration_s: int, kind: drill_pb2.FaultKind.ValueType, **extent: Any) -> resource_pb2.Resource:
    body = drill_pb2.InjectedFault(run=f"drills/cut/runs/{run}", fault=kind, **extent)
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
    first = fault(1, 600, drill_pb2.FAULT_KIND_OUTBOUND_CUT)
    rig.start()
    rig.control_plane.want(first)
    await until(lambda: is_cut(rig), "the links are cut")
    await rig.kill()
    assert await is_cut(rig)
    rig.start()
    await until(lambda: is_clean(rig), "the next agent undoes it")
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
    rig.control_plane.want(first, fault(2, 600, drill_pb2.FAULT_KIND_INBOUND_CUT))
    await until(lambda: is_cut(rig), "the second run begins; the first does not")
    assert f"-A {CHAIN} -o eth0 -j DROP" not in await rules(rig)
    await rig.kill()
    config = ("--config", str(rig.folder / "agent.toml"))
    argv = rig.host.command(own_program("locci-agent"), "end-faults", *config)
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "faults/cut/2 is undone\n"
    assert await is_clean(rig)


async def test_after_a_boot_of_the_host_the_record_on_disk_says_what_to_undo(rig: Rig) -> None:
    """The power goes while two faults are in effect and a third waits for its time. What the kernel held is gone by
    itself; what is on disk is not, and nothing of it all is begun again although it is still wanted."""
    later = fault(3, 600, drill_pb2.FAULT_KIND_CLOCK_JUMP, clock_offset=duration_pb2.Duration(seconds=60))
    later.fault.start_offset.FromSeconds(300)
    rig.start()
    rig.control_plane.want(
        fault(1, 600, drill_pb2.FAULT_KIND_OUTBOUND_CUT),
        fault(2, 600, drill_pb2.FAULT_KIND_DISK_FULL, ballast_bytes=2**20),
        named(later),
    )
    ballast = rig.state / NAME
    await until(lambda: is_cut(rig), "the links are cut")
    await eventually(ballast.exists, "the disk is taken")
    await rig.kill()
    for program in ("iptables", "ip6tables"):
        await output(rig, program, "-w", "5", "-F")
        await output(rig, program, "-w", "5", "-X")
    assert ballast.exists()
    rig.start(boot_id="0f0e0d0c-0b0a-4909-8807-060504030201")
    await eventually(lambda: not ballast.exists(), "the next agent gives the space back")
    await eventually(lambda: rig.control_plane.events.count("FaultEnded") == 2, "both ends are told")
    await eventually(lambda: "FaultSkipped" in rig.control_plane.events, "what had waited is never begun")
    kept = json.loads((rig.state / JOURNAL_NAME).read_text())
    ended = sorted(mark.split()[0] for mark in kept["ended"])
    assert (kept["active"], ended) == ([], ["faults/cut/1", "faults/cut/2", "faults/cut/3"])
    await asyncio.sleep(1.5)
    assert await is_clean(rig)
    assert not ballast.exists()


@pytest.mark.parametrize("kind", [drill_pb2.FAULT_KIND_NODE_CUT, drill_pb2.FAULT_KIND_LINK_SLOW])
async def test_an_agent_that_hangs_keeps_no_fault_in_effect(rig: Rig, kind: drill_pb2.FaultKind.ValueType) -> None:
    """Stopped where it is, it ends nothing; packets that it would have let go wait for it. Somebody else undoes it."""
    slow = {"delay": duration_pb2.Duration(nanos=100_000_000)} if kind == drill_pb2.FAULT_KIND_LINK_SLOW else {}

    async def broken() -> bool:
        mangled = await output(rig, "iptables", "-w", "5", "-t", "mangle", "-S")
        return CHAIN in mangled or bool(await rules(rig)) or HANDLE in await output(rig, "tc", "qdisc", "show")

    async def whole() -> bool:
        return not await broken()

    rig.start()
    rig.control_plane.want(fault(1, 3, kind, **slow))
    await until(lambda: late(rig) if slow else is_cut(rig), "the fault is in effect as a whole")
    os.kill(rig.pid, signal.SIGSTOP)
    try:
        await until(whole, "it is undone beside the agent")
        assert await round_trip_s(rig) < 1.0
    finally:
        os.kill(rig.pid, signal.SIGCONT)
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "the agent tells its end")
    assert rig.log.count('"kind": "FaultBegan"') == 1
    assert await whole()


async def test_a_stopped_agent_leaves_nothing(rig: Rig) -> None:
    rig.start()
    rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_NODE_CUT))
    await until(lambda: is_cut(rig), "the links are cut")
    await rig.stop()
    assert await is_clean(rig)


async def test_the_first_run_of_a_drill_that_was_declared_anew_begins(rig: Rig) -> None:
    first = fault(1, 600, drill_pb2.FAULT_KIND_INBOUND_CUT)
    rig.start()
    rig.control_plane.want(first)
    await until(lambda: is_cut(rig), "the links are cut")
    await rig.kill()
    rig.start()
    await until(lambda: is_clean(rig), "the next agent undoes it")
    again = fault(1, 3, drill_pb2.FAULT_KIND_INBOUND_CUT)
    again.fault.begin_before.seconds = first.fault.begin_before.seconds + 7
    rig.control_plane.want(named(again))
    await until(lambda: is_cut(rig), "another one of the same name begins")
    await until(lambda: is_clean(rig), "it ends by its time limit")


async def test_the_host_can_forbid_drills(rig: Rig) -> None:
    (rig.folder / "policy.toml").write_text("drills = false\n")
    rig.start()
    revision = rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_NODE_CUT))
    await eventually(lambda: "FaultRefused" in rig.control_plane.events, "it is refused")
    await eventually(lambda: rig.control_plane.accepted == revision, "all else of the snapshot is taken")
    assert "replicas" in rig.control_plane.resource_types
    assert "faults" not in rig.control_plane.resource_types, "it does not even ask for them"
    assert not rig.control_plane.nacks
    assert await is_clean(rig)


async def output(rig: Rig, *argv: str) -> str:
    command = rig.host.command(*argv)
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


async def test_each_other_fault_is_done_and_undone_also_after_a_kill(rig: Rig) -> None:
    redis = rig.host.command("redis-server", "--port", "6399", "--save", "", "--dir", str(rig.folder))
    program = await asyncio.to_thread(subprocess.Popen, redis, stdout=subprocess.DEVNULL, env=clean_environment())
    ballast = rig.state / NAME

    async def shaped() -> bool:
        return HANDLE in await output(rig, "tc", "qdisc", "show", "dev", "eth0")

    async def lossy() -> bool:
        return any("--probability 0.3" in line or "--probability 0.2999" in line for line in await rules(rig))

    async def frozen() -> bool:
        return (Path("/proc") / str(program.pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"

    async def full() -> bool:
        return ballast.exists() and ballast.stat().st_size == 2**20

    scenes = (
        (fault(1, 600, drill_pb2.FAULT_KIND_LINK_SLOW, rate_kbit=1_000), shaped),
        (fault(2, 600, drill_pb2.FAULT_KIND_LINK_LOSSY, loss_percent=30), lossy),
        (fault(3, 600, drill_pb2.FAULT_KIND_PROGRAM_FROZEN, program="redis"), frozen),
        (fault(4, 600, drill_pb2.FAULT_KIND_DISK_FULL, ballast_bytes=2**20), full),
    )
    try:
        rig.start()
        for wanted, broken in scenes:
            rig.control_plane.want(wanted)
            await until(broken, f"{wanted.name} is in effect")
            await rig.kill()
            assert await broken()
            rig.start()

            async def whole(broken: Callable[[], Awaitable[bool]] = broken) -> bool:
                return not await broken()

            await until(whole, f"the next agent undoes {wanted.name}")
    finally:
        program.kill()
        program.wait(10)


async def test_a_clock_that_a_drill_makes_jump_is_right_again_also_after_a_kill(rig: Rig) -> None:
    def off_by(seconds: float) -> Callable[[], bool]:
        return lambda: abs(rig.control_plane.clock_offset_s - seconds) < 30

    jump = drill_pb2.FAULT_KIND_CLOCK_JUMP
    rig.start()
    rig.control_plane.want(fault(1, 3, jump, clock_offset=duration_pb2.Duration(seconds=-3600)))
    await eventually(off_by(-3600), "its heartbeats are an hour late")
    await eventually(off_by(0), "the jump ends by the time limit, which does not hang on that clock")
    rig.control_plane.want(fault(2, 600, jump, clock_offset=duration_pb2.Duration(seconds=600)))
    await eventually(off_by(600), "its heartbeats are ten minutes early")
    await rig.kill()
    rig.start()
    await eventually(off_by(0), "the next agent lives by the host's clock")
    await eventually(
        lambda: rig.control_plane.events.count("FaultEnded") >= 2, f"both ends: {rig.control_plane.events}"
    )


_CONNECT = """
import socket, sys, time
began = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 1), 5)
except ConnectionRefusedError:
    print(time.monotonic() - began)
"""


async def round_trip_s(rig: Rig) -> float:
    """From the host to what is outside of it and back: the refusal of a connection."""
    return float(await output(rig, sys.executable, "-c", _CONNECT, rig.host.outside))


async def late(rig: Rig, seconds: float = 0.1) -> bool:
    return await round_trip_s(rig) > seconds


async def test_packets_are_late_only_while_the_agent_makes_them_so(rig: Rig) -> None:
    rig.start()
    rig.control_plane.want(
        fault(1, 600, drill_pb2.FAULT_KIND_LINK_SLOW, delay=duration_pb2.Duration(nanos=300_000_000))
    )

    await until(lambda: late(rig, 0.3), "packets are late")
    assert 0.3 <= min([await round_trip_s(rig) for _ in range(3)]) < 0.6
    heard = rig.control_plane.beats
    await eventually(lambda: rig.control_plane.beats > heard + 3, "heartbeats go on, later")
    await rig.kill()
    assert await round_trip_s(rig) < 0.25, "nobody holds packets back any more"
    rig.start()

    async def whole() -> bool:
        rules = await output(rig, "iptables", "-w", "5", "-t", "mangle", "-S")
        return CHAIN not in rules and HANDLE not in await output(rig, "tc", "qdisc", "show", "dev", "eth0")

    await until(whole, "the next agent undoes it")
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
    rig.control_plane.want(
        fault(2, 3, drill_pb2.FAULT_KIND_LINK_SLOW, rate_kbit=1_000, delay=duration_pb2.Duration(nanos=200_000_000))
    )
    await until(late_and_narrow(rig), "packets are late and few")
    await until(whole, "it ends by its time limit")
    assert await round_trip_s(rig) < 0.15


def late_and_narrow(rig: Rig) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await round_trip_s(rig) > 0.2 and HANDLE in await output(rig, "tc", "qdisc", "show", "dev", "eth0")

    return holds


async def test_one_fault_is_forbidden_and_one_cannot_be_begun(rig: Rig) -> None:
    (rig.folder / "policy.toml").write_text('forbidden_faults = ["disk-full"]\n')
    rig.start()
    refused = fault(1, 600, drill_pb2.FAULT_KIND_DISK_FULL)
    impossible = fault(2, 600, drill_pb2.FAULT_KIND_PROGRAM_FROZEN, program="dns")
    revision = rig.control_plane.want(refused, impossible)
    await eventually(lambda: "FaultRefused" in rig.control_plane.events, "the one is refused")
    await eventually(lambda: "FaultFailed" in rig.control_plane.events, "the other is told to have failed")
    assert rig.control_plane.accepted == revision
    assert not (rig.state / NAME).exists()
