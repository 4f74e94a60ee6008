"""What is shipped, built and installed into clean root file systems; from nothing to serving."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from lab.machine import clean_environment
from tests.integration.engine_fixture import EngineHost, engine_host, wait_for
from tests.integration.packaging.clean_root import (
    DEADLINE_S,
    ROOT,
    CleanHost,
    ControlPlane,
    elapsed_s,
    served,
)

__all__ = ["engine_host"]

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.packaging]

PROGRAMS = ("locci", "locci-agent", "locci-dns", "locci-edge", "locci-server")


def hand_over(host: CleanHost, path: Path) -> str:
    """Where the host finds a copy of a file."""
    (host.root / "tmp" / path.name).write_bytes(path.read_bytes())
    return f"/tmp/{path.name}"


def hello(engine: EngineHost) -> dict[str, object]:
    """An app with one replica in each region."""
    return {
        "name": "hello",
        "image": engine.push("hello"),
        "ports": [{"container_port": 8080}],
        "readiness": {"http": {"path": "/"}, "interval": "0.5s"},
        "placement": {"replicas_per_region": 1},
        "hostnames": ["hello.example.net"],
    }


def test_the_same_sources_give_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    subprocess.run([ROOT / "tools/packages", "--out", tmp_path], check=True, timeout=600, capture_output=True)
    assert (tmp_path / "SHA256SUMS").read_text() == (packages / "SHA256SUMS").read_text()
    assert len((packages / "SHA256SUMS").read_text().splitlines()) == 5


def test_nothing_in_an_archive_names_the_machine_that_built_it(packages: Path) -> None:
    archive = next(packages.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        for entry in tar:
            assert (entry.uid, entry.uname) == (0, "root")
            if entry.isfile() and not entry.name.endswith(".so") and (content := tar.extractfile(entry)) is not None:
                assert str(ROOT).encode() not in content.read(), entry.name


def test_a_debian_package_is_installed_runs_joins_serves_and_goes(
    packages: Path, host: CleanHost, fleet: ControlPlane
) -> None:
    deb = hand_over(host, next(packages.glob("*.deb")))
    host.ok("dpkg", "--install", deb)
    for program in PROGRAMS:
        assert "sage" in host.ok(program, "--help"), program
    doctor = host.run("locci", "agent", "doctor", "-o", "json")
    findings = {finding["check"]: finding["verdict"] for finding in json.loads(doctor.stdout)}
    assert doctor.returncode == 1
    assert (findings["engine"], findings["identity"], findings["policy"]) == ("ok", "failed", "ok"), doctor.stdout
    fleet.apply(hello(host.engine))
    host.ok("locci-agent", "join", "--server", fleet.url, "--token", fleet.token(), "--name", "eu-1")
    host.start("locci-agent", "run")
    host.start("locci-edge", "run")
    wait_for(lambda: fleet.ready("eu-1"), "the node is READY", DEADLINE_S)
    wait_for(served(f"http://{host.engine.inside}/", "hello.example.net"), "it serves", DEADLINE_S)
    assert host.run("locci", "agent", "doctor").returncode == 0
    host.close()
    host.ok("dpkg", "--purge", "locci")
    left = [path for path in (host.root / "opt/locci", host.root / "var/lib/locci") if path.exists()]
    assert not left


def test_an_rpm_is_installed_runs_and_goes(packages: Path, host: CleanHost) -> None:
    rpm = ["rpm", "--root", str(host.root), "--dbpath", "/var/lib/rpm"]
    path = next(packages.glob("*.rpm"))
    # Debian's database of packages is not RPM's, so what Python is there RPM cannot know.
    subprocess.run([*rpm, "--install", "--nodeps", str(path)], check=True, timeout=120, capture_output=True)
    assert "sage" in host.ok("locci-agent", "--help")
    subprocess.run([*rpm, "--erase", "locci"], check=True, timeout=120, capture_output=True)
    assert not (host.root / "usr/bin/locci-agent").exists()
    assert not (host.root / "opt/locci/current").exists()


def test_from_nothing_to_serving_with_the_air_gapped_bundle(
    packages: Path, host: CleanHost, fleet: ControlPlane
) -> None:
    bundle = hand_over(host, next(packages.glob("*-bundle.tar")))
    fleet.apply(hello(host.engine))
    token = fleet.token()
    began = time.monotonic()
    host.ok("tar", "-xf", bundle, "-C", "/tmp")
    host.ok("sh", "/tmp/install.sh", env={"LOCCI_SERVER": fleet.url, "LOCCI_TOKEN": token, "LOCCI_NAME": "eu-1"})
    installed_s = elapsed_s(began)
    host.start_unit("locci-agent")
    host.start_unit("locci-edge")
    wait_for(served(f"http://{host.engine.inside}/", "hello.example.net"), "it serves", DEADLINE_S)
    serving_s = elapsed_s(began)
    print(f"installed and joined after {installed_s:.1f} s, serving after {serving_s:.1f} s")
    wait_for(lambda: fleet.ready("eu-1"), "the node is READY", DEADLINE_S)
    assert host.run("locci-agent", "doctor").returncode == 0
    host.close()
    host.ok("sh", "/tmp/install.sh", "uninstall", "--purge")
    assert not (host.root / "opt/locci").exists()
    assert not (host.root / "var/lib/locci").exists()


def docker(engine: EngineHost, *argv: str) -> str:
    """Docker's own command line, on this engine."""
    environment = clean_environment({"DOCKER_HOST": engine.socket})
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def test_an_image_runs_agent_and_edge_in_containers(
    packages: Path, engine_host: EngineHost, fleet: ControlPlane, tmp_path: Path
) -> None:
    tag = "locci:test"
    built = [ROOT / "packaging/image/build.sh", packages, tag]
    environment = clean_environment({"DOCKER_HOST": engine_host.socket, "PATH": f"{os.environ['PATH']}:/usr/sbin"})
    subprocess.run(["sh", *built], check=True, timeout=600, capture_output=True, env=environment)
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    run.mkdir()
    socket = engine_host.socket.removeprefix("unix://")
    mounts = [f"{state}:/var/lib/locci", f"{run}:/run/locci", f"{socket}:/var/run/docker.sock"]
    options = ["--network", "host", *(word for mount in mounts for word in ("-v", mount))]
    fleet.apply(hello(engine_host))
    joining = ("locci-agent", "join", "--server", fleet.url, "--token", fleet.token(), "--name", "eu-1")
    docker(engine_host, "run", "--rm", *options, tag, *joining)
    agent = docker(engine_host, "run", "-d", *options, "-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro", tag)
    edge = docker(engine_host, "run", "-d", *options, tag, "locci-edge", "run")
    try:
        wait_for(served(f"http://{engine_host.inside}/", "hello.example.net"), "it serves", DEADLINE_S)
        wait_for(lambda: fleet.ready("eu-1"), "the node is READY", DEADLINE_S)
        assert "replicas/hello/0/1" in docker(engine_host, "exec", agent, "locci", "agent", "status", "-o", "json")
    finally:
        print(docker(engine_host, "logs", "--tail", "20", agent), docker(engine_host, "logs", "--tail", "20", edge))
        engine_host.remove_containers()
        docker(engine_host, "rmi", "--force", tag)
