"""A singleton runs on a young lease only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.machine import Machine
from agent.core.messages import (
    ContainerStopped,
    CreateAndStart,
    LeasesLost,
    LeasesRenewed,
    SnapshotAccepted,
    StartContainer,
    StopContainer,
    Ticked,
)
from agent.core.model import Phase
from agent.core.plan import next_time
from tests.unit.agent.play import Play, replica, running, target

SINGLETON = replace(replica(), fence_after_s=10.0)
NAME = frozenset({SINGLETON.resource})


def test_without_a_lease_nothing_starts_and_the_status_says_why() -> None:
    play = Play().boot(wanted=target(SINGLETON))
    play.machine.world.images.add(SINGLETON.image)
    play >> Ticked()
    assert not play.saw(CreateAndStart)
    assert play.status(SINGLETON).phase is Phase.PENDING
    assert "word of the control plane" in play.status(SINGLETON).reason
    play >> LeasesRenewed(NAME, play.now - 5.0)
    assert not play.saw(CreateAndStart), "a start takes time: half of the lease is left for it"
    play >> LeasesRenewed(NAME, play.now - 4.9)
    assert play.saw(CreateAndStart)


def test_it_stops_when_the_lease_is_over_and_starts_again_with_the_next() -> None:
    play = Play().boot(running("a", SINGLETON), wanted=target(SINGLETON))
    assert play.saw(StopContainer), "it ran before the agent did, and nobody has said that it may"
    play = Play(Machine(leases={SINGLETON.resource: 1000.0}))
    play.boot(running("a", SINGLETON), wanted=target(SINGLETON))
    assert not play.saw(StopContainer)
    assert next_time(play.machine.world, play.now) == 1010.0
    play.later(9.9) >> Ticked()
    assert not play.saw(StopContainer)
    play >> LeasesRenewed(NAME, 1009.0)
    play.later(0.2) >> Ticked()
    assert not play.saw(StopContainer)
    play.later(9.0) >> Ticked()
    (stop,) = play.saw(StopContainer)
    assert stop.timeout_s == SINGLETON.stop_timeout_s
    assert not play.status(SINGLETON).ready
    play >> ContainerStopped("a")
    play.later(60) >> Ticked()
    assert not play.saw(StartContainer)
    play >> LeasesRenewed(NAME, play.now)
    assert play.saw(StartContainer)


def test_a_lease_never_gets_older_and_goes_with_its_replica() -> None:
    play = Play(Machine(leases={SINGLETON.resource: 1000.0})).boot(wanted=target(SINGLETON))
    play >> LeasesRenewed(NAME, 900.0)
    assert play.machine.world.leases == {SINGLETON.resource: 1000.0}
    play >> SnapshotAccepted(target(revision=2)) >> SnapshotAccepted(target(SINGLETON, revision=3))
    assert play.machine.world.leases == {}, "wanted again, it needs a new one"


def test_what_was_leased_goes_at_once_when_the_agent_that_drained_it_ended() -> None:
    """Its drain and its stop timeout went with that agent; the control plane may give it away as if both had begun."""
    first = Play(Machine(leases={SINGLETON.resource: 1000.0}))
    first.boot(running("a", SINGLETON), wanted=target(SINGLETON))
    first >> SnapshotAccepted(target(revision=2))
    assert [stop.timeout_s for stop in first.saw(StopContainer)] in ([], [SINGLETON.stop_timeout_s])
    kept = dict(first.machine.world.leases)
    second = Play(Machine(leases=kept)).boot(running("a", SINGLETON), wanted=target(revision=2))
    assert [stop.timeout_s for stop in second.saw(StopContainer)] == [0.0]
    second >> ContainerStopped("a")
    other = replica(1)
    third = Play(Machine(leases=kept)).boot(running("b", other), wanted=target(other, revision=2))
    third >> SnapshotAccepted(target(other, revision=3))
    assert third.machine.world.leases == {}, "it is gone"


def test_a_host_that_stood_still_relies_on_nothing() -> None:
    play = Play(Machine(leases={SINGLETON.resource: 1000.0}))
    play.boot(running("a", SINGLETON), wanted=target(SINGLETON))
    play >> LeasesLost()
    assert play.saw(StopContainer)


@pytest.mark.parametrize("other", [replica(1), replace(replica(1), readiness=None)])
def test_others_need_no_lease(other: object) -> None:
    play = Play().boot(wanted=target(other))  # type: ignore[arg-type]
    play.machine.world.images.add(SINGLETON.image)
    play >> Ticked()
    assert play.saw(CreateAndStart)
