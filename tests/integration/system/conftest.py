"""The deployed fleet that all tests of this folder share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import docker
import pytest
from docker.errors import DockerException

from fleet.errors import LocciError
from lab.example import example_folder
from lab.machine import clean_environment
from lab.preflight import own_program
from lab.story import APP
from lab.topology import Host
from tests.integration.lab_fixture import Fleet, fleet

__all__ = ["fleet"]

HEALTHY_DEADLINE_S = 45.0


@dataclass(frozen=True, slots=True)
class Deployed:
    """The fleet with the example's release 1 on every node."""

    fleet: Fleet

    def host(self, name: str) -> Host:
        """A host by name."""
        return self.fleet.topology.host(name)

    def containers(self) -> dict[str, tuple[str, str]]:
        """Id and start time of the app's one running container on each node."""
        return {node.name: self.container(node.name) for node in self.fleet.topology.nodes}

    def container(self, node: str) -> tuple[str, str]:
        """Id and start time of the app's one running container on a node."""
        client = docker.DockerClient(base_url=f"unix://{self.fleet.layout.docker_socket(node)}", timeout=10)
        try:
            running = client.containers.list(filters={"label": f"dev.locci.app={APP}"})
            assert len(running) == 1, f"{node} runs {running}"
            return str(running[0].id), running[0].attrs["State"]["StartedAt"]
        finally:
            client.close()

    def kill_container(self, node: str) -> None:
        """Kills the app's container on a node behind the agent's back."""
        client = docker.DockerClient(base_url=f"unix://{self.fleet.layout.docker_socket(node)}", timeout=10)
        try:
            client.api.kill(self.container(node)[0])
        finally:
            client.close()

    def apply_with(self, line: str) -> subprocess.CompletedProcess[str]:
        """Applies the example's manifest with one more line."""
        path = self.fleet.layout.root / "changed.yaml"
        path.write_text((example_folder() / "app.yaml").read_text() + line + "\n")
        environment = clean_environment({"LOCCI_CONTEXT": str(self.fleet.layout.context), "NO_COLOR": "1"})
        command = [own_program("locci"), "apply", "-f", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)

    def replicas(self) -> list[dict[str, Any]]:
        """The app's replicas as the API shows them."""
        return list(self.fleet.api.pages(f"/v1/apps/{APP}/replicas", "replicas"))

    def troubles(self) -> list[str]:
        """What the control plane finds out of order, in words; nothing when the fleet is as it should be."""
        nodes = list(self.fleet.api.pages("/v1/nodes", "nodes"))
        replicas = self.replicas()
        found = [f"{n['name']}: {n['condition']}" for n in nodes if n["condition"] != "NODE_CONDITION_READY"]
        found += [
            f"{node['name']}: no session as {session['role']}"
            for node in nodes
            for session in node.get("sessions", [])
            if not session.get("connected")
        ]
        found += [f"{r['name']}: {r.get('status')}" for r in replicas if not r.get("healthy") or r.get("stopping")]
        return found if len(replicas) == len(nodes) else [*found, f"{len(replicas)} replicas on {len(nodes)} nodes"]

    def wait_healthy(self) -> None:
        """Returns when everything is healthy, seen from the API, the edges and the DNS servers."""
        wait_for(self._everything, "the fleet is not healthy again")

    def _everything(self) -> bool:
        ready, nodes = self.fleet.readiness, self.fleet.topology.nodes
        silent = [f"edge on {node.name}" for node in nodes if not ready.edge(node)]
        silent += [f"engine on {node.name}" for node in nodes if not ready.engine(node)]
        silent += [f"redis on {node.name}" for node in nodes if not ready.redis(node)]
        silent += [f"dns on {node.name}" for node in self.fleet.topology.name_servers if not ready.name_server(node)]
        silent += [] if ready.registry() else ["registry"]
        troubles = self.troubles() + silent
        assert not troubles, troubles
        return True

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a type, newest first."""
        return list(self.fleet.api.call("GET", "/v1/events", query={"type": kind}).get("events", []))


def wait_for(holds: Callable[[], bool], otherwise: str, timeout_s: float = HEALTHY_DEADLINE_S) -> None:
    """Returns when `holds()`; fails with `otherwise`, and the last error, when it does not in time."""
    deadline = time.monotonic() + timeout_s
    last = ""
    while True:
        try:
            if holds():
                return
            last = ""
        except (LocciError, OSError, AssertionError, DockerException) as error:
            last = f": {error}"
        assert time.monotonic() < deadline, otherwise + last
        time.sleep(0.1)


@pytest.fixture(scope="session")
def deployed(fleet: Fleet) -> Deployed:
    """The fleet with the example deployed."""
    fleet.story.deploy()
    result = Deployed(fleet)
    result.wait_healthy()
    return result
