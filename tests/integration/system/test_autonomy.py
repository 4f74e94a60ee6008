"""Hosts that are on their own: they boot, serve and repair from what they last accepted."""

from __future__ import annotations

import pytest

from lab.observers import ask_name_server
from lab.story import HOSTNAME
from tests.integration.system.conftest import Deployed, wait_for

pytestmark = pytest.mark.lab


def test_a_host_without_control_plane_boots_serves_and_repairs(deployed: Deployed) -> None:
    deployed.wait_healthy()
    before = deployed.containers()
    control, topology = deployed.fleet.control, deployed.fleet.topology
    control.call("kill", host="cp", program="server", hold=True)
    try:
        for program in ("agent", "edge", "dns"):
            control.call("kill", host="eu-1", program=program, hold=False)
        deployed.kill_container("eu-1")
        wait_for(lambda: deployed.container("eu-1") != before["eu-1"], "the container was not replaced")
        wait_for(lambda: deployed.fleet.readiness.edge(deployed.host("eu-1")), "the edge does not serve")
        client = deployed.host("client-eu")
        namespace = topology.namespace(topology.control)
        wait_for(
            lambda: ask_name_server(namespace, deployed.host("eu-1"), HOSTNAME, client) == {deployed.host("eu-1").ipv4},
            "the DNS server does not answer with the nearest region",
        )
        wait_for(
            lambda: '"region": "eu"' in _get(deployed) or '"region":"eu"' in _get(deployed),
            "the region does not serve its own clients",
        )
    finally:
        control.call("release")
    deployed.wait_healthy()
    after = deployed.containers()
    assert {node for node in before if before[node] != after[node]} == {"eu-1"}


def _get(deployed: Deployed) -> str:
    return deployed.fleet.story.on(deployed.host("client-eu"), "curl", "-sf", "--max-time", "3", f"http://{HOSTNAME}/")
