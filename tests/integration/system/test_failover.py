"""Regions that are lost, measured: with the control plane, without it, and seen by who is cut off itself."""

from __future__ import annotations

import pytest

from lab import links
from lab.drill import DrillPlan, record_drill, run_drill
from lab.lock import locked
from lab.observers import ask_name_server
from lab.story import HOSTNAME
from tests.integration.system.conftest import Deployed, wait_for

METRICS = ("curl", "-s", "http://127.0.0.1:7449/metrics")

pytestmark = [pytest.mark.lab, pytest.mark.drill]


@pytest.mark.parametrize("region", ["eu", "us", "ap"])
def test_a_lost_region_is_withdrawn_in_seconds_and_comes_back(deployed: Deployed, region: str) -> None:
    deployed.wait_healthy()
    containers = deployed.containers()
    plan = DrillPlan(region, HOSTNAME, deployed.host(f"client-{region}"))
    measured = run_drill(plan, deployed.fleet.topology, deployed.fleet.layout, deployed.fleet.api)
    assert measured.passed, measured.failures
    run = record_drill(plan, measured, deployed.fleet.api)
    kept = deployed.fleet.api.call("GET", f"/v1/{run.rpartition('/runs/')[0]}/runs")["runs"][0]
    assert kept["name"] == run
    assert kept["passed"]
    deployed.wait_healthy()
    assert deployed.containers() == containers


def test_failover_needs_no_control_plane(deployed: Deployed) -> None:
    deployed.wait_healthy()
    control = deployed.fleet.control
    control.call("kill", host="cp", program="server", hold=True)
    try:
        plan = DrillPlan("ap", HOSTNAME, deployed.host("client-ap"))
        measured = run_drill(plan, deployed.fleet.topology, deployed.fleet.layout, deployed.fleet.api)
    finally:
        control.call("release")
    stages = {mark.stage for mark in measured.marks}
    assert {"withdrawn", "rerouted", "restored"} <= stages, measured
    deployed.wait_healthy()


def test_a_dns_server_that_is_cut_off_itself_withdraws_nobody(deployed: Deployed) -> None:
    deployed.wait_healthy()
    fleet = deployed.fleet
    host, client = deployed.host("us-1"), deployed.host("client-ap")
    inside = fleet.topology.namespace(host)
    nearest = {deployed.host("ap-1").ipv4}
    assert ask_name_server(inside, host, HOSTNAME, client) == nearest
    with locked(fleet.name):
        links.partition(fleet.name, fleet.layout, "us")
    try:
        wait_for(
            lambda: 'locci_dns_brake_applied{family="ipv4"} 1.0' in fleet.story.on(host, *METRICS),
            "the DNS server that is cut off does not freeze",
            timeout_s=15,
        )
        wait_for(
            lambda: ask_name_server(inside, host, HOSTNAME, client) == nearest,
            "the DNS server that is cut off has changed its answers",
            timeout_s=10,
        )
    finally:
        with locked(fleet.name):
            links.heal(fleet.name, fleet.layout, "us")
    deployed.wait_healthy()


def test_agents_cut_their_own_region_and_undo_it(deployed: Deployed) -> None:
    deployed.wait_healthy()
    containers = deployed.containers()
    api, drill = deployed.fleet.api, "/v1/drills/agents-eu"
    spec = {
        "fault": "FAULT_KIND_REGION_CUT",
        "target": "regions/eu",
        "hostname": HOSTNAME,
        "fault_duration": "12s",
        "withdraw_objective": "10s",
        "reroute_objective": "60s",
    }
    api.call("POST", "/v1/drills", {"spec": spec}, query={"drill_id": "agents-eu"})
    run = api.call("POST", f"{drill}:run", {})["name"]

    def ended() -> bool:
        return str(api.call("GET", f"/v1/{run}")["state"]) in ("STATE_PASSED", "STATE_FAILED", "STATE_ABORTED")

    wait_for(ended, "the run does not end", timeout_s=150)
    measured = api.call("GET", f"/v1/{run}")
    assert measured["state"] == "STATE_PASSED", measured
    assert [mark["stage"] for mark in measured["marks"]] == ["fault", "detected", "withdrawn", "healed", "restored"]
    seen = {client["region"]: client for client in measured["clients"]}
    assert int(seen["regions/eu"]["failed"]) < int(seen["regions/eu"]["requests"]), seen
    assert {"regions/us", "regions/ap"} <= set(seen)
    wait_for(lambda: bool(deployed.events("FaultEnded")), "the agent does not tell the end of its fault")
    deployed.wait_healthy()
    assert deployed.containers() == containers


def test_packets_that_are_lost_withdraw_nobody(deployed: Deployed) -> None:
    """A tenth of all packets of a region is lost for 30 s; hours of it are simulated (tests/simulation/routing)."""
    deployed.wait_healthy()
    api, drill = deployed.fleet.api, "/v1/drills/lossy-us"
    before = len(deployed.events("EndpointWithdrawn"))
    spec = {
        "fault": "FAULT_KIND_LINK_LOSSY",
        "target": "regions/us",
        "hostname": HOSTNAME,
        "loss_percent": 10,
        "fault_duration": "30s",
    }
    api.call("POST", "/v1/drills", {"spec": spec}, query={"drill_id": "lossy-us"})
    # A region that went out and came back shortly before is held back for a while.
    runs: list[str] = []
    begun = lambda: runs.append(api.call("POST", f"{drill}:run", {})["name"]) is None  # noqa: E731
    wait_for(begun, "it cannot begin", timeout_s=120)
    run = runs[-1]

    def ended() -> bool:
        return str(api.call("GET", f"/v1/{run}")["state"]) in ("STATE_PASSED", "STATE_FAILED", "STATE_ABORTED")

    wait_for(ended, "the run does not end", timeout_s=150)
    measured = api.call("GET", f"/v1/{run}")
    assert measured["state"] == "STATE_PASSED", measured
    withdrawn = deployed.events("EndpointWithdrawn")
    assert len(withdrawn) == before, withdrawn
    deployed.wait_healthy()


def test_a_run_is_called_off_when_another_region_is_lost(deployed: Deployed) -> None:
    """A drill wants two other regions to serve; while it goes on the network of one of them fails for real."""
    deployed.wait_healthy()
    fleet, drill = deployed.fleet, "/v1/drills/guarded-eu"
    spec = {
        "fault": "FAULT_KIND_LINK_LOSSY",
        "target": "nodes/eu-1",
        "hostname": HOSTNAME,
        "loss_percent": 5,
        "fault_duration": "300s",
        "min_healthy_regions": 2,
    }
    fleet.api.call("POST", "/v1/drills", {"spec": spec}, query={"drill_id": "guarded-eu"})
    runs: list[str] = []
    begun = lambda: runs.append(fleet.api.call("POST", f"{drill}:run", {})["name"]) is None  # noqa: E731
    wait_for(begun, "it cannot begin", timeout_s=120)
    firewall = lambda: fleet.story.on(deployed.host("eu-1"), "iptables", "-w", "5", "-S")  # noqa: E731
    wait_for(lambda: "LOCCI-DRILL" in firewall(), "the fault does not begin", timeout_s=30)

    def state() -> str:
        return str(fleet.api.call("GET", f"/v1/{runs[-1]}")["state"])

    wait_for(lambda: state() == "STATE_FAULTY", "the run does not go on", timeout_s=30)
    with locked(fleet.name):
        links.partition(fleet.name, fleet.layout, "us")
    try:
        wait_for(lambda: state() == "STATE_RECOVERING", "the guard does not call it off", timeout_s=30)
        measured = fleet.api.call("GET", f"/v1/{runs[-1]}")
        assert "are in 1 other region(s), fewer than 2" in measured["abort_reason"], measured
        wait_for(lambda: "LOCCI-DRILL" not in firewall(), "the agent does not undo the fault", timeout_s=15)
    finally:
        with locked(fleet.name):
            links.heal(fleet.name, fleet.layout, "us")
    deployed.wait_healthy()
    wait_for(lambda: state() == "STATE_ABORTED", "the run does not end", timeout_s=120)
