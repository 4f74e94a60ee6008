"""Volumes, files, privileges and probes of containers, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest

from locci.v1 import resource_pb2
from tests.integration.agent.rig import Rig, eventually, named, replica

pytestmark = pytest.mark.lab


def run_in(rig: Rig, command: str) -> str:
    """What a shell command in the replica's container writes."""
    with contextlib.closing(rig.host.client()) as client:
        container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id
        exec_id = client.exec_create(container_id, ["/bin/sh", "-c", command])["Id"]
        output: bytes = client.exec_start(exec_id)
        return output.decode()


async def test_volumes_files_and_a_read_only_root(rig: Rig, image: str) -> None:
    shared = rig.folder / "shared"
    shared.mkdir()
    (shared / "greeting").write_text("from the host\n")
    (rig.folder / "policy.toml").write_text(f'host_paths = ["{shared}"]\n')
    wanted = replica(image)
    spec = wanted.replica
    spec.volumes.add(path="/data", name="db")
    spec.volumes.add(path="/mnt", host_path=str(shared), read_only=True)
    spec.volumes.add(path="/tmp").tmpfs.size_bytes = 2**20
    spec.files.add(path="/etc/app.conf", content="colour = blue\n", mode=0o440)
    spec.security.read_only_root = True
    spec.security.drop_all_capabilities = True
    spec.ulimits.add(name="nofile", soft=77)
    spec.working_dir = "/data"
    rig.start()
    rig.control_plane.want(wanted)
    await eventually(rig.control_plane.ready, "it is ready")
    script = (
        "echo kept > kept && cat /data/kept /mnt/greeting /etc/app.conf; ulimit -n; echo x > /tmp/x && cat /tmp/x; "
        "(echo x > /www/x) 2>&1; (echo x > /mnt/x) 2>&1; (echo x > /etc/app.conf) 2>&1; cat /proc/self/status"
    )
    said = await asyncio.to_thread(run_in, rig, script)
    assert said.startswith("kept\nfrom the host\ncolour = blue\n77\nx\n"), said
    assert said.count("Read-only file system") == 3, said
    assert "CapEff:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    rig.control_plane.want()
    await eventually(lambda: "replicas/web/0/1" in rig.control_plane.gone, "it is gone")
    await eventually(lambda: not list((rig.state / "files").iterdir()), "so are its files")
    rig.control_plane.want(wanted)
    await eventually(rig.control_plane.ready, "it is back")
    assert await asyncio.to_thread(run_in, rig, "cat kept") == "kept\n"


async def test_what_the_host_does_not_allow_is_refused_whole(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    bad = replica(image, ordinal=1)
    bad.replica.volumes.add(path="/host", host_path="/etc")
    bad.replica.security.privileged = True
    rig.control_plane.want(bad)
    await eventually(lambda: rig.control_plane.nacks, "it is refused")
    messages = " ".join(problem.message for problem in rig.control_plane.nacks[0].problems)
    assert "host_paths" in messages
    assert "privileged" in messages
    assert rig.control_plane.ready()


async def test_a_command_in_the_container_decides_whether_it_is_ready(rig: Rig, image: str) -> None:
    wanted = replica(image)
    wanted.replica.readiness.exec.command.extend(["/bin/sh", "-c", "cat /www/ready"])
    rig.start()
    rig.control_plane.want(wanted)

    def told() -> bool:
        statuses = rig.control_plane.replicas.values()
        return any("No such file" in s.reason and "exit code 1" in s.reason for s in statuses)

    await eventually(told, "it says why it is not ready")
    await asyncio.to_thread(run_in, rig, "echo yes > /www/ready")
    await eventually(rig.control_plane.ready, "it is ready")


def secret(name: str, version: int, value: bytes) -> resource_pb2.Resource:
    material = resource_pb2.SecretMaterial(secret=name, version=version, value=value)
    return named(resource_pb2.Resource(name=f"secrets/{name}/{version}", secret=material))


async def test_secrets_are_files_in_memory_or_in_the_environment(rig: Rig, image: str) -> None:
    wanted = replica(image)
    wanted.replica.secrets.add(secret="db", version=2)
    wanted.replica.secrets.add(secret="key", version=1, path="/etc/app/key", mode=0o400)
    wanted.replica.secrets.add(secret="token", version=1, env="API_TOKEN")
    values = [secret("db", 2, b"canary-db"), secret("key", 1, b"\0canary-key"), secret("token", 1, b"canary-token")]
    rig.start()
    rig.control_plane.want(wanted, *values)
    await eventually(rig.control_plane.ready, "it is ready")
    script = "cat /run/secrets/db; tail -c 10 /etc/app/key; echo $API_TOKEN; (echo x > /run/secrets/db) 2>&1; mount"
    said = await asyncio.to_thread(run_in, rig, script)
    assert said.startswith("canary-dbcanary-keycanary-token\n"), said
    assert "Read-only file system" in said
    assert "tmpfs on /run/secrets/db type tmpfs (ro" in said
    for path in (path for path in rig.state.rglob("*") if path.is_file() and path.name != "snapshot.pb"):
        assert b"canary" not in path.read_bytes(), path
    assert (rig.state / "snapshot.pb").stat().st_mode & 0o777 == 0o600
    assert "canary" not in rig.log

    # As after a reboot: the container is there, what was in memory is gone.
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id
    place = await asyncio.to_thread(source_of, rig, container_id, "/run/secrets/db")
    await rig.kill()
    with contextlib.closing(rig.host.client()) as client:
        await asyncio.to_thread(client.stop, container_id, 1)
    shutil.rmtree(place.parent)
    rig.control_plane.replicas.clear()
    rig.start()
    await eventually(rig.control_plane.ready, "it is ready again")
    assert rig.control_plane.replicas["replicas/web/0/1"].container_id == container_id
    assert (await asyncio.to_thread(run_in, rig, "cat /run/secrets/db")) == "canary-db"

    rig.control_plane.want()
    await eventually(lambda: "replicas/web/0/1" in rig.control_plane.gone, "it is gone")
    await eventually(lambda: not place.parent.exists(), "its secrets are gone")
    bad = replica(image)
    bad.replica.secrets.add(secret="db", version=3)
    rig.control_plane.want(bad)
    await eventually(lambda: rig.control_plane.nacks, "it is refused")
    assert "version 3 of db did not come with it" in rig.control_plane.nacks[0].problems[0].message


def source_of(rig: Rig, container_id: str, path: str) -> Path:
    """Where on the host a file of a container comes from."""
    with contextlib.closing(rig.host.client()) as client:
        binds = client.inspect_container(container_id)["HostConfig"]["Binds"]
    return next(Path(bind.split(":")[0]) for bind in binds if bind.split(":")[1] == path)
