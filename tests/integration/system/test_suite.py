"""The short form of the drill suite against the deployed fleet."""

from __future__ import annotations

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
