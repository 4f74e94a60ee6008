"""`locci logs` and `locci top`, from an operator's place to containers on hosts in three regions."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path

import docker
import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from lab.story import APP
from tests.integration.system.conftest import Deployed, wait_for
from tests.integration.system.test_bad_input import locci

pytestmark = pytest.mark.lab


def write(deployed: Deployed, node: str, text: str) -> None:
    """As if the app's container on a node wrote a line."""
    client = docker.DockerClient(base_url=f"unix://{deployed.fleet.layout.docker_socket(node)}", timeout=10)
    with contextlib.closing(client):
        container = client.containers.get(deployed.container(node)[0])
    # The image has no shell.
    Path(f"/proc/{container.attrs['State']['Pid']}/fd/1").write_text(f"{text}\n")


def test_the_logs_of_every_region_in_one_stream(deployed: Deployed) -> None:
    nodes = {replica["node"] for replica in deployed.replicas()}
    for node in nodes:
        write(deployed, node.removeprefix("nodes/"), f"here is {node}")
    done = locci(deployed, "logs", APP, "-o", "json", "--tail", "50")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["node"] for line in lines} == nodes, done.stdout
    assert {f"here is {node}" for node in nodes} <= {line["text"] for line in lines}
    assert all(line["time"] and line["stream"] for line in lines)
    one = deployed.replicas()[0]["name"].removeprefix("apps/").replace("/replicas/", "/")
    done = locci(deployed, "logs", one, "-t", "-n", "1", "--since", "12h")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    for bad, code, said in (("no-such-app", 4, "no-such-app"), ("a/b/c", 2, "is no app")):
        done = locci(deployed, "logs", bad)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_lines_are_followed_until_whoever_reads_goes(deployed: Deployed) -> None:
    environment = clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})
    command = [own_program("locci"), "logs", "-f", APP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            write(deployed, "us-1", "is-followed")
            said = b""
            deadline = time.monotonic() + 60
            while b"is-followed" not in said:
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, said
                said += os.read(process.stdout.fileno(), 65_536)
            assert process.poll() is None
        finally:
            process.terminate()


def test_what_replicas_use_is_shown(deployed: Deployed) -> None:
    nodes = {replica["node"] for replica in deployed.replicas()}

    def told() -> set[str]:
        done = locci(deployed, "top", APP, "--memory", "-o", "json")
        return {row["node"] for row in json.loads(done.stdout)}

    wait_for(lambda: told() == nodes, "every node has said what its replica uses")
    assert locci(deployed, "top", APP).stdout.startswith("REPLICA")
    assert locci(deployed, "top", "no-such-app").returncode == 4


def test_what_a_host_says_of_itself(deployed: Deployed) -> None:
    node = deployed.fleet.topology.nodes[0].name

    def told() -> bool:
        done = locci(deployed, "nodes", "show", node)
        assert done.returncode == 0, done.stderr
        return all(f" {kind}: " in done.stdout for kind in ("DiskSpace", "Memory", "Engine"))

    wait_for(told, "the host's conditions are not shown")
