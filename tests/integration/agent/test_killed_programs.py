"""Faults of drills that kill programs, cut a host off from some others, or come one after the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.firewall import CHAIN
from agent.adapters.host_processes import processes_of
from agent.adapters.killer import NAME, unit_of
from lab.machine import clean_environment
from locci.v1 import drill_pb2
from tests.integration.agent.rig import Rig, eventually, replica, until
from tests.integration.agent.test_faults import fault, rules

pytestmark = pytest.mark.lab

_PORT = 6398
_ALIVE = f"import socket; socket.create_connection(('127.0.0.1', {_PORT}), 1).close()"


class Redis:
    """A server in the host's network, and a script that starts it, as the host's init would."""

    def __init__(self, rig: Rig):
        self._rig = rig
        self.script = rig.folder / "start-redis"
        options = f"--port {_PORT} --save '' --daemonize yes --logfile '' --dir {rig.folder}"
        self.script.write_text(f"#!/bin/sh\nexec redis-server {options}\n")
        self.script.chmod(0o755)

    def start(self) -> None:
        argv = self._rig.host.command(str(self.script))
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=clean_environment(), timeout=30)

    async def runs(self) -> bool:
        argv = self._rig.host.command(sys.executable, "-c", _ALIVE)
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    async def is_down(self) -> bool:
        return not await self.runs()

    def stop(self) -> None:
        argv = self._rig.host.command("redis-cli", "-p", str(_PORT), "shutdown", "nosave")
        subprocess.run(argv, check=False, capture_output=True, timeout=30)


def settings(rig: Rig, text: str) -> None:
    path = rig.folder / "agent.toml"
    path.write_text(path.read_text() + text)


async def test_a_killed_program_stays_down_and_is_started_again_also_by_the_next_agent(rig: Rig) -> None:
    redis = Redis(rig)
    redis.start()
    settings(rig, f'restart_commands.redis = ["{redis.script}"]\n')
    killed = drill_pb2.FAULT_KIND_PROGRAM_KILLED
    try:
        rig.start()
        rig.control_plane.want(fault(1, 4, killed, program="redis"))
        await until(redis.is_down, "it is killed")
        redis.start()
        await until(redis.is_down, "what init starts again meanwhile is killed as well")
        await until(redis.runs, "it is started again when the time is over")
        await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
        assert not (rig.state / NAME).exists()
        rig.control_plane.want(fault(2, 600, killed, program="redis"))
        await until(redis.is_down, "it is killed again")
        await rig.kill()
        assert (rig.state / NAME).exists()
        assert await redis.is_down()
        rig.start()
        await until(redis.runs, "the next agent starts it again")
    finally:
        await rig.kill()
        redis.stop()


async def test_a_host_that_loses_everything_has_it_again_also_by_the_next_agent(rig: Rig, image: str) -> None:
    redis = Redis(rig)
    redis.start()
    settings(rig, f'[restart_commands]\nredis = ["{redis.script}"]\ndockerd = []\n')
    try:
        rig.start()
        rig.control_plane.want(replica(image))
        await eventually(rig.control_plane.ready, "it runs")
        rig.control_plane.want(replica(image), fault(1, 600, drill_pb2.FAULT_KIND_NODE_KILLED))
        await eventually(lambda: "FaultBegan" in rig.control_plane.events, "everything is dead")
        assert await redis.is_down()
        assert not await asyncio.to_thread(rig.host.answers)
        await rig.kill()
        await asyncio.to_thread(rig.host.kill_engine)
        assert await redis.is_down()
        rig.start()
        await until(redis.runs, "the next agent starts it again")
        # As its supervisor would.
        await asyncio.to_thread(rig.host.start_engine)
        await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told")
        assert not (rig.state / NAME).exists()
        await eventually(rig.control_plane.ready, "the replica runs again")
    finally:
        await rig.kill()
        redis.stop()


async def test_what_nothing_would_start_again_is_not_killed(rig: Rig) -> None:
    redis = Redis(rig)
    redis.start()
    try:
        rig.start()
        rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_PROGRAM_KILLED, program="redis"))
        await eventually(lambda: "FaultFailed" in rig.control_plane.events, "it is told")
        assert "restart_commands" in rig.log
        assert await redis.runs()
    finally:
        redis.stop()


async def test_an_agent_that_is_killed_by_a_drill_is_killed_once(rig: Rig) -> None:
    settings(rig, "restart_commands.agent = []\n")
    rig.start()
    pid = rig.pid
    rig.control_plane.want(fault(1, 600, drill_pb2.FAULT_KIND_PROGRAM_KILLED, program="agent"))
    await until(lambda: _ended(pid), "it is dead")
    await rig.kill()
    rig.start()
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "the next one ends it")
    assert not await _ended(rig.pid)


async def _ended(pid: int) -> bool:
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_host_is_cut_off_from_registry_or_control_plane_alone(rig: Rig) -> None:
    rig.start()
    asked = fault(1, 600, drill_pb2.FAULT_KIND_REGISTRY_CUT, destinations=["192.0.2.50:5000"])
    rig.control_plane.want(asked)

    async def cut() -> bool:
        return any("-d 192.0.2.50/32 -p tcp -m tcp --dport 5000 -j DROP" in line for line in await rules(rig))

    await until(cut, "the registry is cut off")
    rig.control_plane.want(fault(2, 4, drill_pb2.FAULT_KIND_CONTROL_PLANE_CUT))
    outside = f"-d {rig.host.outside}/32 "

    async def deaf() -> bool:
        return any(CHAIN in line and outside in line for line in await rules(rig))

    async def whole() -> bool:
        return not await rules(rig)

    await until(deaf, "the control plane is cut off, the registry no more")
    assert not await cut()
    await until(whole, "it ends by the agent's own time")
    sessions = rig.control_plane.sessions
    await eventually(lambda: "FaultEnded" in rig.control_plane.events, "its end is told", 60)
    assert rig.control_plane.sessions >= sessions


async def test_steps_begin_at_their_own_times_and_several_at_once(rig: Rig) -> None:
    first = fault(1, 600, drill_pb2.FAULT_KIND_LINK_LOSSY, loss_percent=20)
    second = fault(1, 3, drill_pb2.FAULT_KIND_DISK_FULL, ballast_bytes=2**20)
    second.name = "faults/cut/1/2"
    second.fault.start_offset.FromSeconds(3)
    ballast = rig.state / "drill-ballast"

    async def lossy() -> bool:
        return any("--probability" in line for line in await rules(rig))

    rig.start()
    rig.control_plane.want(first, second)
    await until(lossy, "the first begins")
    assert not ballast.exists()
    # What an agent had accepted, the next one begins at the same time.
    await eventually(ballast.exists, "the second begins later")
    await eventually(lambda: not ballast.exists(), "the second ends by its own time")
    assert await lossy()


def test_the_unit_of_a_process_is_read_from_its_cgroups() -> None:
    assert unit_of("0::/system.slice/redis-server.service\n") == "redis-server.service"
    assert unit_of("12:pids:/docker/x\n1:name=systemd:/system.slice/locci-edge.service\n") == "locci-edge.service"
    assert unit_of("0::/system.slice/system-getty.slice/getty@tty1.service") == "getty@tty1.service"
    assert unit_of("0::/user.slice/user-0.slice/session-1.scope") == ""
    assert not processes_of("redis", {})
