"""An upgrade of a fleet: a real control plane, supervised agents of two nodes with versions installed side by side."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from tests.integration.agent.rig import containers, eventually, until
from tests.integration.agent.versions import Versions
from tests.integration.engine_fixture import EngineHost
from tests.integration.packaging.clean_root import ControlPlane, control_plane

pytestmark = pytest.mark.lab

NODES = ("eu-1", "eu-2")


@pytest.fixture
def fleet(engine_host: EngineHost, tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(tmp_path, engine_host) as running:
        yield running
    engine_host.clear()


@pytest.fixture
async def hosts(fleet: ControlPlane, engine_host: EngineHost, tmp_path: Path) -> AsyncIterator[dict[str, Versions]]:
    """Two nodes on one engine, each with its own supervisor."""
    found: dict[str, Versions] = {}
    async with contextlib.AsyncExitStack() as stack:
        for node in NODES:
            folder = tmp_path / node
            folder.mkdir()
            run = engine_host.layout.root / f"run-{node}"
            settings = (
                f'state_dir = "{folder}/state"\nidentity_dir = "{folder}/identity"\nrun_dir = "{run}"\n'
                f'docker_host = "{engine_host.socket}"\nmetrics_listen = ""\nsandboxes = 0\n'
            )
            host = found[node] = Versions(folder, engine_host, settings)
            words = ("--server", fleet.url, "--token", fleet.token(), "--name", node, "--address", engine_host.inside)
            joined = await host.call("join", *words)
            assert joined.returncode == 0, joined.stderr
            await stack.enter_async_context(host.supervised())
        for node in NODES:
            await eventually(lambda node=node: fleet.ready(node), f"{node} is ready")  # type: ignore[misc]
        yield found


async def locci(engine: EngineHost, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The operator's command line."""
    words = engine.command(own_program("locci"), "--context", str(folder / "server" / "context.json"), *argv)
    return await asyncio.to_thread(
        subprocess.run, words, capture_output=True, text=True, timeout=300, check=False, env=clean_environment()
    )


def node_of(fleet: ControlPlane, name: str) -> dict[str, Any]:
    return fleet.api.call("GET", f"/v1/nodes/{name}")


async def test_a_good_version_goes_round_and_a_broken_one_is_halted_at_the_first_node(
    hosts: dict[str, Versions], fleet: ControlPlane, engine_host: EngineHost, tmp_path: Path, image: str
) -> None:
    fleet.apply(
        {
            "name": "web",
            "image": image,
            "kind": "APP_KIND_DAEMON",
            "ports": [{"name": "http", "container_port": 8080}],
            "rollout": {"healthy_for": "0.5s"},
        }
    )

    async def all_healthy() -> bool:
        return all(node_of(fleet, name).get("healthy_replicas") == 1 for name in NODES)

    await until(all_healthy, "both run a replica")
    before = await containers(engine_host)

    good = await locci(engine_host, tmp_path, "upgrade", "start", "1.1.0", "--wave", "1", "--bake", "1s")
    assert good.returncode == 0, good.stderr
    assert "2 nodes run 1.1.0" in good.stderr
    assert [host.current for host in hosts.values()] == ["1.1.0", "1.1.0"]
    assert [host.runs for host in hosts.values()] == [["1.0.0", "1.1.0"]] * 2
    assert fleet.api.call("GET", "/v1/regions/eu")["agent_version"] == "1.1.0"

    bad = await locci(engine_host, tmp_path, "upgrade", "start", "1.2.0", "--wave", "1", "--bake", "1s")
    assert bad.returncode == 1
    assert "node eu-1: 1.2.0 was taken back: it ended 3 times" in bad.stderr
    assert [host.current for host in hosts.values()] == ["1.1.0", "1.1.0"]
    assert "1.2.0" not in hosts["eu-2"].runs
    listed = await locci(engine_host, tmp_path, "nodes", "ls", "-o", "wide")
    assert "1.2.0 taken back: it ended 3 times" in listed.stdout
    status = await hosts["eu-1"].call("status")
    assert "1.2.0 was wanted last and is taken back: it ended 3 times" in status.stdout
    events = fleet.api.call("GET", "/v1/events", query={"subject": "nodes/eu-1"})["events"]
    assert {"AgentVersionStayed", "AgentVersionTakenBack"} <= {event["type"] for event in events}

    assert await containers(engine_host) == before
    await until(all_healthy, "nobody noticed")
