"""What the agent does with containers, on a real engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from locci.v1 import replica_pb2
from tests.integration.agent.rig import Rig, containers, eventually, replica, route, until
from tests.integration.agent.test_options import run_in
from tests.integration.engine_fixture import EngineHost

pytestmark = pytest.mark.lab


async def test_ten_replicas_start_and_are_served(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        await eventually(lambda: rig.control_plane.sessions, "the agent connects")
        begun = time.monotonic()
        revision = rig.control_plane.want(route(), *(replica(image, ordinal=n) for n in range(10)))
        names = [f"replicas/web/{n}/1" for n in range(10)]
        await eventually(lambda: all(rig.control_plane.ready(name) for name in names), "all are ready")
        print(f"ten replicas ready after {time.monotonic() - begun:.2f} s")
        await eventually(lambda: rig.control_plane.applied == revision, "the revision is applied")
        assert len(rig.edge.addresses()) == 10
        status = rig.control_plane.replicas[names[0]]
        assert status.phase == replica_pb2.REPLICA_PHASE_RUNNING
        assert status.address in rig.edge.addresses()


async def test_an_agent_that_is_killed_adopts_what_runs_without_a_gap_at_the_edge(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.edge.addresses() and rig.control_plane.ready(), "it is served")
        before = await containers(rig.host)
        configurations = len(rig.edge.configs)
        await rig.kill()
        rig.start()
        await eventually(lambda: rig.control_plane.sessions == 2 and rig.control_plane.ready(), "it is back")
        await eventually(lambda: len(rig.edge.configs) > configurations, "the edge is told anew")
    assert await containers(rig.host) == before
    assert all(config.routes[0].local for config in rig.edge.configs[configurations:])
    generations = [config.generation for config in rig.edge.configs]
    assert generations == sorted(set(generations))


async def test_a_boot_without_a_control_plane_starts_what_was_wanted_last(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(route(), replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    await rig.kill()
    await asyncio.to_thread(rig.host.clear)
    (rig.folder / "identity" / "identity.json").write_text(
        (rig.folder / "identity" / "identity.json").read_text().replace(f"{rig.host.outside}:", "127.0.0.1:1")
    )
    rig.start()
    async with rig.edge.connected():
        await eventually(rig.edge.addresses, "it is served")
    assert rig.control_plane.sessions == 1


async def test_the_same_container_serves_a_newer_release_of_the_same_spec(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image, spec="same"))
    await eventually(rig.control_plane.ready, "release 1 is ready")
    before = rig.control_plane.replicas["replicas/web/0/1"].container_id
    revision = rig.control_plane.want(replica(image, release=2, spec="same"))
    await eventually(lambda: rig.control_plane.ready("replicas/web/0/2"), "release 2 is ready")
    await eventually(lambda: rig.control_plane.applied == revision, "it is applied")
    assert rig.control_plane.replicas["replicas/web/0/2"].container_id == before
    assert "replicas/web/0/1" in rig.control_plane.gone
    assert list(await containers(rig.host)) == [before]


async def test_two_releases_run_side_by_side_until_the_old_one_is_drained(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        old, new = replica(image), replica(image, release=2)
        rig.control_plane.want(route(), old)
        await eventually(rig.edge.addresses, "release 1 is served")
        first = rig.edge.addresses()
        rig.control_plane.want(route(), old, new)
        await eventually(lambda: len(rig.edge.addresses()) == 2, "both are served")
        rig.edge.in_progress = 3
        revision = rig.control_plane.want(route(), new)
        await eventually(lambda: rig.edge.addresses(draining=True) == first, "release 1 is drained")
        assert len(await containers(rig.host)) == 2
        await eventually(lambda: "replicas/web/0/1" in rig.control_plane.gone, "release 1 is gone")
        await eventually(lambda: rig.control_plane.applied == revision, "it is applied")
        assert len(await containers(rig.host)) == 1
    phases = [s.phase for s in rig.control_plane.seen if s.resource == "replicas/web/0/1"]
    assert phases[-1] == replica_pb2.REPLICA_PHASE_DRAINING


async def test_a_container_that_crashes_is_started_again_ever_more_slowly_with_its_last_words(rig: Rig) -> None:
    bad = await asyncio.to_thread(rig.host.push, "bad", None, "echo no such table >&2; exit 3")
    rig.start()
    rig.control_plane.want(replica(bad))

    def backed_off() -> list[replica_pb2.ReplicaStatus]:
        wanted = replica_pb2.REPLICA_PHASE_BACKOFF
        return [s for s in rig.control_plane.seen if s.phase == wanted and s.restarts >= 1 and s.log_tail]

    await eventually(backed_off, "it is started again and fails again")
    status = backed_off()[0]
    assert status.exit_code == 3
    assert "exit code 3" in status.reason
    assert "no such table" in status.log_tail
    assert "ReplicaCrashed" in rig.control_plane.events
    rig.control_plane.want()
    await eventually(lambda: "replicas/web/0/1" in rig.control_plane.gone, "it is gone at once")
    assert await containers(rig.host) == {}


async def test_a_killed_container_that_was_well_comes_back(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id

    def kill() -> None:
        client = rig.host.client()
        client.kill(container_id)
        client.close()

    await asyncio.to_thread(kill)
    await eventually(lambda: rig.control_plane.replicas["replicas/web/0/1"].restarts == 1, "it is started again")
    await eventually(rig.control_plane.ready, "it is ready again")
    assert rig.control_plane.replicas["replicas/web/0/1"].container_id == container_id


async def test_a_container_that_is_removed_behind_its_back_is_made_anew(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    await asyncio.to_thread(rig.host.clear)

    async def anew() -> bool:
        return list((await containers(rig.host)).values()) == ["running"] and rig.control_plane.ready()

    await until(anew, "a new one is ready")


async def test_foreign_containers_are_left_alone(rig: Rig, engine_host: EngineHost, image: str) -> None:
    def foreign() -> list[str]:
        client = engine_host.client()
        client.pull(image)
        labels = {"dev.locci.app": "web", "dev.locci.ordinal": "0", "dev.locci.spec-hash": "spec-1"}
        ids = [
            client.create_container(image, labels=given)["Id"]
            for given in ({}, {**labels, "dev.locci.node": "other"}, {"dev.locci.node": "eu-1"})
        ]
        for container_id in ids:
            client.start(container_id)
        client.close()
        return ids

    before = await asyncio.to_thread(foreign)
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "the own one is ready")
    revision = rig.control_plane.want()
    await eventually(lambda: rig.control_plane.applied == revision, "the own one is gone")
    assert sorted(await containers(rig.host)) == sorted(before)


async def test_limits_and_privileges(rig: Rig, image: str) -> None:
    wanted = replica(image)
    wanted.replica.resources.memory_bytes = 32 * 2**20
    wanted.replica.resources.cpu_millis = 250
    wanted.replica.resources.pids = 50
    wanted.replica.env["COLOUR"] = "blue"
    wanted.replica.user = "1000:1001"
    wanted.replica.ulimits.add(name="nofile", soft=99, hard=199)
    wanted.replica.log_rotation.max_bytes = 2**20
    wanted.replica.log_rotation.max_files = 3
    rig.start()
    rig.control_plane.want(wanted)
    await eventually(rig.control_plane.ready, "it is ready")

    def inspect() -> dict[str, object]:
        client = rig.host.client()
        found = client.inspect_container(rig.control_plane.replicas["replicas/web/0/1"].container_id)
        client.close()
        assert "COLOUR=blue" in found["Config"]["Env"]
        assert found["Name"].startswith("/locci-web-0-1-")
        return dict(found["HostConfig"])

    settings = await asyncio.to_thread(inspect)
    assert settings["Memory"] == 32 * 2**20
    assert settings["NanoCpus"] == 250_000_000
    assert settings["PidsLimit"] == 50
    assert settings["CapDrop"] == ["ALL"]
    assert settings["SecurityOpt"] == ["no-new-privileges"]
    assert settings["PortBindings"] in (None, {})
    assert settings["LogConfig"] == {"Type": "json-file", "Config": {"max-size": str(2**20), "max-file": "3"}}
    said = await asyncio.to_thread(run_in, rig, "cat /proc/self/status; ulimit -n; ulimit -Hn")
    assert "Uid:\t1000\t" in said
    assert "Gid:\t1001\t" in said
    assert said.endswith("99\n199\n")


async def test_a_host_that_joins_again_adopts_what_runs(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    before = await containers(rig.host)
    await rig.kill()
    # What `join` does: another identity, and nothing is known of what was wanted.
    (rig.state / "snapshot.pb").unlink()
    rig.control_plane.replicas.clear()
    rig.start()
    await eventually(rig.control_plane.ready, "it is ready again")
    assert await containers(rig.host) == before
