"""Blue/green on a whole fleet with clients that ask all the time: no request is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.demo_report import failures
from lab.example import example_folder
from lab.machine import clean_environment
from lab.observers import ClientLoop
from lab.preflight import own_program
from lab.story import APP, HOSTNAME
from tests.integration.system.conftest import Deployed

pytestmark = pytest.mark.lab


def locci(deployed: Deployed, *arguments: str) -> None:
    environment = clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})
    command = [own_program("locci"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def restored(deployed: Deployed) -> Iterator[Deployed]:
    """The fleet, which has the example as it was again afterwards."""
    deployed.wait_healthy()
    yield deployed
    locci(deployed, "deploy", "-f", str(example_folder() / "app.yaml"))
    deployed.wait_healthy()


def test_requests_go_over_to_a_whole_release_and_none_is_lost(restored: Deployed, tmp_path: Path) -> None:
    text = (example_folder() / "app.yaml").read_text().replace("hello:1", "hello:2")
    manifest = tmp_path / "app.yaml"
    manifest.write_text(text.replace("rollout:\n", "rollout:\n  strategy: ROLLOUT_STRATEGY_BLUE_GREEN\n  hold: 4s\n"))
    before = restored.containers()
    with ExitStack() as stack:
        clients = restored.fleet.topology.clients
        loops = [stack.enter_context(ClientLoop(restored.fleet.topology, c, HOSTNAME, rate=8)) for c in clients]
        for loop in loops:
            assert loop.wait(lambda samples: len(samples) >= 5 and samples[-1].ok, timeout_s=10)
        locci(restored, "deploy", "-f", str(manifest))
        restored.wait_healthy()
        for loop in loops:
            loop.stop()
        samples = [sample for loop in loops for sample in loop.samples()]
    assert not [sample for sample in samples if not sample.ok], failures(samples)
    after = restored.containers()
    assert not set(before.values()) & set(after.values())
    [rollout] = restored.fleet.api.call("GET", f"/v1/apps/{APP}/rollouts", query={"page_size": "1"})["rollouts"]
    assert rollout["side_by_side"]
    assert rollout["switch_time"]
    assert len(rollout["prefetch_nodes"]) == len(restored.fleet.topology.nodes)
