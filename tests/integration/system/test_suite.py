"""The short form of the drill suite against the deployed fleet."""

from __future__ import annotations

from typing import Any

import pytest

from lab.suite import Suite, chosen
from tests.integration.system.conftest import Deployed

pytestmark = [pytest.mark.lab, pytest.mark.drill]


def test_the_fleet_bears_the_short_suite(deployed: Deployed) -> None:
    deployed.wait_healthy()
    suite = Suite(deployed.fleet.story, deployed.fleet.control)
    for drill in chosen(short=True):
        outcome = suite.play(drill)
        assert outcome.passed, outcome
        deployed.wait_healthy()
    run: dict[str, Any] = deployed.fleet.api.call("GET", "/v1/drills/suite-game-day/runs")["runs"][0]
    through = {client["region"]: client for client in run["clients"]}
    assert through["regions/ap"]["resolver"] == "127.0.0.1 (resolver)", "clients ask a real resolver"
    assert through["regions/eu"]["resolver"] == "the DNS servers", "nobody's resolver is in the region that is cut off"
    assert all(int(client["requests"]) > int(client.get("failed", 0)) for client in through.values())
    assert all(len(client["samples"]) > 1 for client in through.values())
    assert {step for mark in run["marks"] if (step := mark.get("step"))} == {1, 2, 3}
    assert any("requests were sent" in word["text"] for word in run["said"])
    assert any("program-killed" in word["text"] and "was undone" in word["text"] for word in run["said"])
