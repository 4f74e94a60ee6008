"""Images from a registry that wants a login, and from mirrors."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from lab.preflight import find_tools
from locci.v1 import replica_pb2, resource_pb2
from tests.fakes.passwords import htpasswd
from tests.fakes.ports import free_port
from tests.integration.agent.rig import Rig, containers, eventually, named, replica
from tests.integration.engine_fixture import REGISTRY

pytestmark = pytest.mark.lab

USER, PASSWORD = "puller", "canary-registry-password"


@pytest.fixture
def mirror(rig: Rig) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A registry with the same content that lets only one in: its host, and its process."""
    folder, port = rig.folder / "private", free_port()
    folder.mkdir()
    (folder / "htpasswd").write_text(htpasswd(USER, PASSWORD))
    config = (rig.host._file("registry.yml")).read_text().replace("127.0.0.1:5000", f"127.0.0.1:{port}")
    config += f"\nauth: {{htpasswd: {{realm: private, path: {folder}/htpasswd}}}}\n"
    (folder / "registry.yml").write_text(config)
    argv = rig.host.command(find_tools(folder).registry, "serve", str(folder / "registry.yml"))
    with (folder / "log").open("ab") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield f"127.0.0.1:{port}", process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture
def private(mirror: tuple[str, subprocess.Popen[bytes]], image: str) -> str:
    """The image's name there."""
    return at(image, mirror[0])


def login(image: str, password: str) -> resource_pb2.Resource:
    body = resource_pb2.RegistryLogin(host=image.partition("/")[0], username=USER, password=password)
    return named(resource_pb2.Resource(name="registries/main", registry_login=body))


async def test_an_image_is_pulled_by_the_login_that_came_with_it(rig: Rig, private: str) -> None:
    def reason() -> str:
        return rig.control_plane.replicas.get("replicas/web/0/1", replica_pb2.ReplicaStatus()).reason

    rig.start()
    for resources in ([replica(private)], [replica(private), login(private, "wrong")]):
        rig.control_plane.replicas.clear()
        rig.control_plane.want(*resources)
        await eventually(lambda: "auth" in reason() or "unauthorized" in reason(), "it is refused")
    rig.control_plane.want(replica(private), login(private, PASSWORD))
    await eventually(rig.control_plane.ready, "it is pulled and runs")
    assert PASSWORD not in rig.log
    for path in (path for path in rig.state.rglob("*") if path.is_file() and path.name != "snapshot.pb"):
        assert PASSWORD.encode() not in path.read_bytes(), path


def mirrors(image: str, *hosts: str) -> resource_pb2.Resource:
    body = resource_pb2.RegistryMirrors(host=image.partition("/")[0], mirrors=hosts)
    return named(resource_pb2.Resource(name="mirrors/main", registry_mirrors=body))


def at(image: str, host: str) -> str:
    """The image's name at another host."""
    return f"{host}/{image.partition('/')[2]}"


async def test_a_mirror_with_a_login_stands_in_for_a_registry_that_is_away(rig: Rig, private: str) -> None:
    mirror = private.partition("/")[0]
    image = at(private, REGISTRY)
    await asyncio.to_thread(rig.host.kill_registry)
    try:
        rig.start()
        rig.control_plane.want(replica(image), mirrors(image, mirror), login(private, PASSWORD))
        await eventually(rig.control_plane.ready, "it runs from the mirror")
        before = await containers(rig.host)
        await rig.kill()
        rig.start()
        rig.control_plane.want(replica(image), replica(image, ordinal=1))
        await eventually(lambda: rig.control_plane.ready("replicas/web/1/1"), "it is here, although no mirror is known")
        assert before.items() <= (await containers(rig.host)).items()
    finally:
        await asyncio.to_thread(rig.host.start_registry)


async def test_mirrors_that_are_away_or_lack_the_image_hold_nothing_up(rig: Rig, image: str) -> None:
    away, forbidden = f"127.0.0.1:{free_port()}", "elsewhere.example.net"
    (rig.folder / "policy.toml").write_text('registries = ["127.0.0.1:*"]\n')
    rig.start()
    rig.control_plane.want(replica(image), mirrors(image, forbidden, away))
    await eventually(rig.control_plane.ready, "it is pulled from the registry itself")
    await eventually(lambda: "MirrorPassedOver" in rig.control_plane.events, "and the mirror is told of")
    assert away in rig.log
    assert forbidden not in rig.log


async def test_a_mirror_that_dies_in_the_middle_of_a_pull(
    rig: Rig, mirror: tuple[str, subprocess.Popen[bytes]]
) -> None:
    host, process = mirror
    image = await asyncio.to_thread(rig.host.push, "slow", {"www/noise": secrets.token_hex(10 << 20)})
    shape = ("replace", "dev", "lo", "root", "tbf", "rate", "32mbit", "burst", "256kb", "latency", "400ms")
    try:
        await asyncio.to_thread(rig.host.traffic_control, *shape)
        rig.start()
        rig.control_plane.want(replica(image), mirrors(image, host), login(at(image, host), PASSWORD))
        pulling = replica_pb2.REPLICA_PHASE_PULLING
        await eventually(lambda: any(s.phase == pulling for s in rig.control_plane.seen), "it is being pulled")
        await asyncio.sleep(0.7)
        assert not rig.control_plane.ready()
        process.kill()
        await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(rig.host.traffic_control, "del", "dev", "lo", "root")
    await eventually(rig.control_plane.ready, "the registry itself takes over at once", 20)
    assert "MirrorPassedOver" in rig.control_plane.events
    assert "the download broke off" in rig.log
