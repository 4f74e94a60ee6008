"""What the agent does when something that it needs is not there."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from lab.preflight import own_program
from locci.v1 import replica_pb2
from tests.integration.agent.rig import Rig, containers, eventually, named, persisted, replica, route

pytestmark = pytest.mark.lab

WEB = "replicas/web/0/1"


async def test_an_unreachable_registry_is_named_and_tried_again(rig: Rig) -> None:
    image = await asyncio.to_thread(rig.host.push, "later")
    await asyncio.to_thread(rig.host.kill_registry)
    try:
        rig.start()
        rig.control_plane.want(replica(image))
        await eventually(lambda: WEB in rig.control_plane.replicas and _reason(rig), "there is a reason")
        assert "the registry cannot be reached" in _reason(rig)
        assert rig.control_plane.replicas[WEB].phase == replica_pb2.REPLICA_PHASE_BACKOFF
    finally:
        await asyncio.to_thread(rig.host.start_registry)
    await eventually(rig.control_plane.ready, "the image is pulled in the end", 30)


async def test_an_image_that_the_registry_does_not_have_is_named(rig: Rig, image: str) -> None:
    missing = image.partition("@")[0] + "@sha256:" + "0" * 64
    rig.start()
    rig.control_plane.want(replica(missing))
    await eventually(lambda: WEB in rig.control_plane.replicas and _reason(rig), "there is a reason")
    assert "the registry does not have it" in _reason(rig)
    rig.control_plane.want()
    await eventually(lambda: WEB in rig.control_plane.gone, "nobody waits for it any more")


async def test_a_program_that_is_not_in_the_image_is_named(rig: Rig, image: str) -> None:
    wanted = replica(image)
    wanted.replica.command.append("/bin/nonsense")
    rig.start()
    rig.control_plane.want(wanted)
    await eventually(lambda: WEB in rig.control_plane.replicas and "nonsense" in _reason(rig), "there is a reason")
    assert "cannot be started" in _reason(rig)


async def test_containers_survive_the_engine_and_are_looked_after_when_it_is_back(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.edge.addresses() and rig.control_plane.ready(), "it is served")
        before = await containers(rig.host)
        await asyncio.to_thread(rig.host.kill_engine)
        try:
            await eventually(lambda: "EngineUnreachable" in rig.control_plane.events, "the loss is reported")
            engine = (await rig.status())["engine"]
            assert isinstance(engine, dict)
            assert "cannot be reached" in engine["reason"] or "closed" in engine["reason"]
            assert rig.edge.addresses()
            assert rig.control_plane.ready()
            rig.control_plane.want(route(), replica(image), replica(image, ordinal=1))
            await eventually(lambda: "replicas/web/1/1" in rig.control_plane.replicas, "the new one is reported")
            assert "Docker Engine" in rig.control_plane.replicas["replicas/web/1/1"].reason
        finally:
            await asyncio.to_thread(rig.host.start_engine)
        await eventually(lambda: rig.control_plane.ready("replicas/web/1/1"), "the new one is ready")
        assert before.items() <= (await containers(rig.host)).items()
        assert "EngineReachable" in rig.control_plane.events


async def test_an_engine_that_stands_still_holds_up_only_what_needs_it(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served")
        before, beats = await containers(rig.host), rig.control_plane.beats
        with rig.host.frozen_engine():
            revision = rig.control_plane.want(route(), replica(image), replica(image, ordinal=1))
            await eventually(lambda: rig.control_plane.accepted == revision, "what is wanted is accepted", 10.0)
            await eventually(lambda: rig.control_plane.beats > beats + 10, "heartbeats go on", 10.0)
            assert (await rig.status())["connected"] is True
            assert (rig.control_plane.ready(), len(rig.edge.addresses())) == (True, 1)
            assert not rig.control_plane.ready("replicas/web/1/1")
        await eventually(lambda: rig.control_plane.ready("replicas/web/1/1"), "it starts when the engine goes on")
        assert (await containers(rig.host)).items() >= before.items()


async def test_a_snapshot_that_cannot_be_held_is_refused_and_the_last_good_one_stays(rig: Rig, image: str) -> None:
    rig.start()
    good = rig.control_plane.want(replica(image))
    await eventually(lambda: rig.control_plane.ready() and rig.control_plane.applied == good, "it is ready")
    bad = replica("web:latest", ordinal=1)
    bad.replica.ports[0].container_port = 99_999
    rig.control_plane.want(replica(image), named(bad))
    await eventually(lambda: rig.control_plane.nacks, "it is refused")
    nack = rig.control_plane.nacks[0]
    assert nack.held_revision == good
    assert {problem.name for problem in nack.problems} == {"replicas/web/1/1"}
    messages = " ".join(problem.message for problem in nack.problems)
    assert "99999" in messages
    assert "web:latest" in messages
    assert persisted(rig.state) == good
    assert len(await containers(rig.host)) == 1


async def test_a_full_disk_refuses_new_snapshots_and_loses_nothing(rig: Rig, image: str, small_disk: Path) -> None:
    rig.start()
    async with rig.edge.connected():
        good = rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.applied == good, "it is applied")
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            _fill(filler)
        rig.control_plane.want(route(), replica(image), replica(image, ordinal=1))
        await eventually(lambda: rig.control_plane.nacks, "the snapshot is refused")
        assert "free some space" in rig.control_plane.nacks[0].problems[0].message
        assert rig.control_plane.ready()
        await rig.kill()
        rig.start()
        await eventually(lambda: rig.control_plane.sessions == 2 and rig.control_plane.ready(), "it comes back")
        assert persisted(small_disk) == good
        filler.unlink()
        rig.control_plane.want(route(), replica(image), replica(image, ordinal=1))
        await eventually(lambda: rig.control_plane.ready("replicas/web/1/1"), "space is free, all is accepted")
        assert len(await containers(rig.host)) == 2


async def test_sigterm_ends_the_agent_and_nothing_else(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    assert await rig.stop() == 0
    assert list((await containers(rig.host)).values()) == ["running"]
    assert not (rig.run / "edge.sock").exists()


async def test_a_second_agent_on_the_same_state_is_refused(rig: Rig) -> None:
    rig.start()
    await eventually(lambda: rig.control_plane.sessions, "the first one connects")
    argv = rig.host.command(own_program("locci-agent"), "run", "--config", str(rig.folder / "agent.toml"))
    second = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another agent works on" in second.stderr
    await rig.status()


async def test_status_without_an_agent_says_so(rig: Rig) -> None:
    argv = [own_program("locci-agent"), "status", "--config", str(rig.folder / "agent.toml")]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no agent answers" in done.stderr


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def _reason(rig: Rig) -> str:
    status = rig.control_plane.replicas[WEB]
    return status.reason if status.phase == replica_pb2.REPLICA_PHASE_BACKOFF else ""
