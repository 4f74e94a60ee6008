"""What is said to the control plane: events with their evidence, findings by node."""

from __future__ import annotations

from pathlib import Path

import pytest

from locci.v1 import event_pb2
from routing.adapters.feed import Feed
from routing.core.failover import Failover, ProbeFailed, ProbeSucceeded, TableAccepted
from routing.core.model import Family, RoutingTable
from tests.fakes.clock import ManualClock
from tests.unit.routing.adapters.resources import region, snapshot, whole
from tests.unit.routing.tables import regions


class Setting:
    """A feed with its brain and a list of what it accepted."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = ManualClock()
        self.brain = Failover("us-1", "us")
        self.tables: list[RoutingTable] = []
        self.woken = 0
        self.feed = Feed(self.brain, self.clock, tmp_path, self.tables.append)
        self.feed.wake = self._wake
        self.brain.handle(TableAccepted(RoutingTable(1, {}, regions(), {})), 0.0)

    def _wake(self) -> None:
        self.woken += 1

    def handle(self, event: ProbeFailed | ProbeSucceeded) -> None:
        for command in self.brain.handle(event, self.clock.monotonic()):
            self.feed.on_command(command)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_it_accepts_what_is_in_order_and_names_what_is_not(setting: Setting) -> None:
    broken = region("eu", version="2")
    broken.region.latitude = 100
    assert setting.feed.problems(snapshot(whole())) == []
    (problem,) = setting.feed.problems(snapshot([broken]))
    assert problem.name == "regions/eu"
    assert setting.tables == []
    setting.feed.accepted(snapshot(whole(), revision=9))
    assert setting.tables[0].revision == 9
    status = setting.feed.complete_status()
    assert (status.accepted_revision, status.applied_revision, status.complete) == (9, 9, True)


def test_a_withdrawal_is_told_with_its_evidence(setting: Setting) -> None:
    for _ in range(3):
        setting.handle(ProbeFailed(("eu-1", Family.IPV4), 0.0, False, "connection refused"))
    assert setting.woken >= 2
    status = setting.feed.status_change()
    assert status is not None
    assert [event.type for event in status.events] == ["EndpointWithdrawn", "RegionWithdrawn"]
    endpoint, place = status.events
    assert list(endpoint.subjects) == ["nodes/eu-1", "regions/eu"]
    assert list(place.subjects) == ["regions/eu", "nodes/eu-1"]
    assert place.severity == event_pb2.SEVERITY_WARNING
    assert "connection refused" in place.message
    assert place.details["rule"] == "own-probes"
    assert place.time.seconds == int(setting.clock.wall())
    again = setting.feed.status_change()
    assert again is not None
    assert not again.events


def test_events_are_kept_for_the_next_session(setting: Setting) -> None:
    for _ in range(3):
        setting.handle(ProbeFailed(("eu-1", Family.IPV4), 0.0, False, "connection refused"))
    assert len(setting.feed.complete_status().events) == 2
    assert not setting.feed.complete_status().events


def test_the_brake_is_told(setting: Setting) -> None:
    for _ in range(13):
        for node in ("eu-1", "ap-1"):
            setting.handle(ProbeFailed((node, Family.IPV4), 0.0, True, "no answer"))
    (event,) = setting.feed.complete_status().events
    assert event.type == "BrakeApplied"
    assert "ap, eu" in event.message


def test_evidence(setting: Setting) -> None:
    assert setting.feed.evidence() is None
    setting.handle(ProbeSucceeded(("us-1", Family.IPV4), 0.25))
    for _ in range(2):
        setting.handle(ProbeFailed(("eu-1", Family.IPV4), 0.0, False, "connection refused"))
    evidence = setting.feed.evidence()
    assert evidence is not None
    eu, us = evidence.results
    assert (eu.endpoint, eu.healthy, eu.in_rotation, eu.reason) == ("nodes/eu-1", False, True, "connection refused")
    assert (us.endpoint, us.healthy, us.in_rotation, us.reason) == ("nodes/us-1", True, True, "")
    assert us.round_trip.ToMilliseconds() == 250
    assert us.since.seconds == int(setting.clock.wall())
