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
    play >> SnapshotAccepted(target(revision=2))
    assert play.machine.world.leases == {}


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
