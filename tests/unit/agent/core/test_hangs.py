"""An engine that was killed between create and start may hang on that container for ever: it is left behind."""

from __future__ import annotations

from agent.core.messages import (
    ContainerRemoved,
    ContainerStarted,
    CreateAndStart,
    EndFailed,
    EngineObserved,
    ImagePulled,
    Observe,
    ProbeSucceeded,
    RecordEvent,
    RemoveContainer,
    StartContainer,
    StartFailed,
    Ticked,
)
from agent.core.model import Container, ContainerState, Purpose
from tests.unit.agent.play import IMAGE, Play, ended, identity, replica, running, target

HUNG = StartFailed(identity(), "Docker Engine does not answer in time", engine_lost=True, hung=True)


def created(container_id: str) -> Container:
    return Container(container_id, identity(), replica().resource, ContainerState.CREATED)


def look(play: Play, *containers: Container) -> Play:
    """The engine answers the listing that is under way."""
    (observe,) = play.saw(Observe)
    return play >> EngineObserved(observe.number, containers)


def test_a_container_that_never_ran_is_left_behind_after_one_hang() -> None:
    play = Play().boot(created("c1"), wanted=target(replica()))
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]
    play.later(30) >> HUNG
    (event,) = play.saw(RecordEvent)
    assert (event.kind, event.details["container"]) == ("ReplicaStartHung", "c1")
    look(play, created("c1"))
    assert play.saw(RemoveContainer) == [RemoveContainer("c1", force=True)]
    play >> ImagePulled(IMAGE)
    assert play.saw(CreateAndStart) == [CreateAndStart(replica())]
    play >> ContainerStarted(running("c2", replica())) >> ProbeSucceeded("c2", Purpose.READINESS)
    play.edge_serves()
    assert play.status(replica()).container_id == "c2"
    assert play.endpoints() == ["c2"]


def test_one_that_the_engine_will_not_remove_holds_up_nothing_and_is_tried_again_ever_more_slowly() -> None:
    play = Play().boot(created("c1"), wanted=target(replica()))
    play >> HUNG
    look(play, created("c1"))
    play.well("c2", replica()).edge_serves()
    assert play.machine.applied_revision == 1
    waits = []
    for _ in range(3):
        play.later(30) >> EndFailed("c1", "does not answer in time", engine_lost=True, hung=True)
        look(play, created("c1"), running("c2", replica()))
        assert play.saw(RemoveContainer) == []
        began = play.now
        while not play.saw(RemoveContainer):
            play.later(0.5) >> Ticked()
        waits.append(play.now - began)
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]
    play >> ContainerRemoved("c1")
    assert play.machine.world.hangs == {}
    assert play.status(replica()).container_id == "c2"


def test_one_that_ran_before_gets_a_second_chance() -> None:
    play = Play().boot(ended("c1", replica()), wanted=target(replica()))
    play >> HUNG
    look(play, ended("c1", replica()))
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]
    play >> HUNG
    look(play, ended("c1", replica()))
    assert play.saw(StartContainer) == []
    assert play.saw(RemoveContainer) == [RemoveContainer("c1", force=True)]


def test_one_that_starts_after_all_before_there_is_another_is_kept() -> None:
    play = Play().boot(created("c1"), wanted=target(replica()))
    play >> HUNG
    look(play, running("c1", replica()))
    assert play.saw(RemoveContainer) == []
    play >> ProbeSucceeded("c1", Purpose.READINESS)
    assert play.endpoints() == ["c1"]


def test_an_engine_that_is_gone_is_no_hang() -> None:
    play = Play().boot(created("c1"), wanted=target(replica()))
    play >> StartFailed(identity(), "connection refused", engine_lost=True)
    look(play, created("c1"))
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]
