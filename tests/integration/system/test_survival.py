"""`kill -9` of each program: everything healthy again, no container restarted, and clients served throughout."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from lab.demo_report import failures
from lab.observers import ClientLoop
from lab.story import HOSTNAME
from tests.integration.system.conftest import Deployed, wait_for

pytestmark = pytest.mark.lab

HARMLESS = [
    ("eu-1", "agent"),
    ("eu-1", "dns"),
    ("eu-1", "redis"),
    ("eu-1", "dockerd"),
    ("eu-1", "containerd"),
    ("cp", "server"),
    ("cp", "registry"),
]


def kill_and_wait(deployed: Deployed, host: str, program: str) -> None:
    before = deployed.fleet.control.programs()[host, program]["pid"]
    deployed.fleet.control.call("kill", host=host, program=program, hold=False)
    wait_for(
        lambda: deployed.fleet.control.programs()[host, program]["pid"] not in (None, 0, before),
        f"{program} on {host} was not started again",
    )
    deployed.wait_healthy()


@pytest.mark.parametrize(("host", "program"), HARMLESS, ids=lambda value: value)
def test_nobody_notices(deployed: Deployed, host: str, program: str) -> None:
    deployed.wait_healthy()
    containers = deployed.containers()
    with ExitStack() as stack:
        clients = deployed.fleet.topology.clients
        loops = [stack.enter_context(ClientLoop(deployed.fleet.topology, c, HOSTNAME, rate=8)) for c in clients]
        for loop in loops:
            assert loop.wait(lambda samples: len(samples) >= 5 and samples[-1].ok, timeout_s=10)
        kill_and_wait(deployed, host, program)
        for loop in loops:
            loop.stop()
        samples = [sample for loop in loops for sample in loop.samples()]
    assert deployed.containers() == containers
    assert not [sample for sample in samples if not sample.ok], failures(samples)


def test_the_edge_comes_back_and_its_clients_lose_little(deployed: Deployed) -> None:
    deployed.wait_healthy()
    containers = deployed.containers()
    client = deployed.host("client-eu")
    with ClientLoop(deployed.fleet.topology, client, HOSTNAME, rate=10) as loop:
        assert loop.wait(lambda samples: len(samples) >= 5 and samples[-1].ok, timeout_s=10)
        kill_and_wait(deployed, "eu-1", "edge")
        assert loop.wait(lambda samples: len(samples) > 20 and all(s.ok for s in samples[-10:]), timeout_s=15)
    assert deployed.containers() == containers


def test_a_killed_container_is_replaced_without_a_failed_request(deployed: Deployed) -> None:
    deployed.wait_healthy()
    before = deployed.containers()
    client = deployed.host("client-eu")
    with ClientLoop(deployed.fleet.topology, client, HOSTNAME, rate=20) as loop:
        assert loop.wait(lambda samples: len(samples) >= 10 and samples[-1].ok, timeout_s=10)
        deployed.kill_container("eu-1")
        wait_for(lambda: deployed.container("eu-1") != before["eu-1"], "the container was not replaced")
        deployed.wait_healthy()
        loop.stop()
        samples = loop.samples()
    after = deployed.containers()
    assert {node for node in before if before[node] != after[node]} == {"eu-1"}
    assert not [sample for sample in samples if not sample.ok], failures(samples)
