"""The machine as plays: >> what happened, then what it commands."""

from __future__ import annotations

from dataclasses import replace

from agent.core.machine import Machine
from agent.core.messages import (
    CancelPull,
    CollectLogTail,
    ContainerDied,
    ContainerRemoved,
    ContainerStarted,
    ContainerStopped,
    CreateAndStart,
    EdgeSeen,
    EdgeServing,
    EndFailed,
    EngineChanged,
    EngineConnected,
    EngineLost,
    EngineObserved,
    ImagePulled,
    LogTailCollected,
    Observe,
    ObserveFailed,
    ProbeFailed,
    ProbeSucceeded,
    PublishEdge,
    PullFailed,
    PullImage,
    PullProgressed,
    RecordEvent,
    RemoveContainer,
    ReportStatus,
    SandboxLost,
    SnapshotAccepted,
    StartContainer,
    StartFailed,
    StartProbing,
    StopContainer,
    StopProbing,
    Ticked,
    WakeAt,
)
from agent.core.model import Phase, Probe, PullFailure, Purpose
from tests.unit.agent.play import IMAGE, Play, ended, identity, replica, running, target


def test_from_nothing_to_serving() -> None:
    play = Play().boot(wanted=target(replica()))
    assert play.saw(PullImage) == [PullImage(IMAGE)]
    assert play.status(replica()).phase is Phase.PULLING

    play >> ImagePulled(IMAGE)
    assert play.saw(CreateAndStart) == [CreateAndStart(replica())]
    assert play.status(replica()).phase is Phase.STARTING

    play >> ContainerStarted(running("c1", replica()))
    (probing,) = play.saw(StartProbing)
    assert (probing.container_id, probing.purpose, probing.eager) == ("c1", Purpose.READINESS, True)
    status = play.status(replica())
    assert (status.phase, status.ready, status.container_id) == (Phase.RUNNING, False, "c1")
    assert play.endpoints() == []

    play >> ProbeSucceeded("c1", Purpose.READINESS)
    assert play.endpoints() == ["c1"]
    assert play.status(replica()).ready
    assert play.machine.applied_revision == 0

    play.edge_serves()
    assert play.machine.applied_revision == 1


def test_a_replica_without_a_probe_is_ready_when_it_runs() -> None:
    bare = replica(readiness=None)
    play = Play().boot(wanted=target(bare)) >> ImagePulled(IMAGE) >> ContainerStarted(running("c1", bare))
    assert play.status(bare).ready
    assert play.saw(StartProbing) == []


def test_a_node_that_was_never_told_anything_touches_nothing() -> None:
    play = Play().boot(running("c1", replica()))
    assert play.commands == [command for command in play.commands if isinstance(command, WakeAt)]


def test_a_matching_container_is_adopted_and_served_as_before() -> None:
    machine = Machine(generation=7, presumed_ready=frozenset({"c1"}))
    play = Play(machine).boot(running("c1", replica()), wanted=target(replica()))
    assert play.saw(PullImage) == play.saw(CreateAndStart) == play.saw(StopContainer) == []
    assert play.status(replica()).ready
    assert play.endpoints() == ["c1"]
    assert play.published is not None
    assert play.published.generation == 8


def test_a_container_that_was_not_ready_before_has_to_prove_itself() -> None:
    play = Play().boot(running("c1", replica()), wanted=target(replica()))
    assert not play.status(replica()).ready
    assert play.endpoints() == []


def test_the_same_spec_in_a_newer_release_is_the_same_container() -> None:
    old, new = replica(spec="same"), replica(release=2, spec="same")
    play = Play().boot(wanted=target(old)).well("c1", old).edge_serves()
    play >> SnapshotAccepted(target(new, revision=2))
    assert play.saw(StopContainer) == play.saw(CreateAndStart) == []
    assert play.gone == [old.resource]
    assert play.status(new).ready
    play.edge_serves()
    assert play.machine.applied_revision == 2


def test_a_container_that_ended_while_nobody_looked_is_started_again_at_once() -> None:
    play = Play().boot(ended("c1", replica(), exit_code=255), wanted=target(replica()))
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]
    play >> ContainerStarted(running("c1", replica()))
    assert play.status(replica()).restarts == 0


def test_what_is_not_wanted_is_drained_stopped_and_removed() -> None:
    old, new = replica(), replica(release=2)
    play = Play().boot(wanted=target(old, new)).well("c1", old).well("c2", new).edge_serves()
    play >> SnapshotAccepted(target(new, revision=2))
    assert play.saw(StopContainer) == []
    assert (play.endpoints(), play.endpoints(draining=True)) == (["c2"], ["c1"])
    assert play.status(old).phase is Phase.DRAINING

    play.later(0.1).edge_serves()
    assert play.saw(StopContainer) == []
    assert play.saw(WakeAt) == [WakeAt(play.now + 2.0)]

    play.later(0.1).edge_serves(idle=frozenset({old.resource}))
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]

    play >> ContainerDied("c1", 0, 200.0)
    play >> ContainerStopped("c1")
    assert play.saw(RemoveContainer) == [RemoveContainer("c1")]
    assert play.machine.applied_revision == 1

    play >> ContainerRemoved("c1")
    play.edge_serves()
    assert play.gone == [old.resource]
    assert play.machine.applied_revision == 2


def test_a_drain_ends_after_its_time_even_when_requests_go_on() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play >> SnapshotAccepted(target(revision=2))
    play.edge_serves()
    play.later(1.9) >> Ticked()
    assert play.saw(StopContainer) == []
    play.later(0.1) >> Ticked()
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]


def test_a_drain_does_not_wait_for_ever_for_an_edge_that_does_not_answer() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play >> SnapshotAccepted(target(revision=2))
    play.later(6.9) >> Ticked()
    assert play.saw(StopContainer) == []
    play.later(0.1) >> Ticked()
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]


def test_a_replica_that_is_wanted_again_while_it_drains_is_kept() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play >> SnapshotAccepted(target(revision=2))
    assert play.endpoints(draining=True) == ["c1"]
    play >> SnapshotAccepted(target(replica(), revision=3))
    assert (play.endpoints(), play.endpoints(draining=True)) == (["c1"], [])
    play.later(60) >> Ticked()
    assert play.saw(StopContainer) == []


def test_a_container_that_was_inherited_is_not_stopped_before_the_edge_knows() -> None:
    play = Play(Machine(generation=3)).boot(running("c1", replica()), wanted=target(revision=5))
    assert play.saw(StopContainer) == []
    play >> EdgeServing(1, 4)
    play.later(2.0) >> Ticked()
    assert play.saw(StopContainer) == [StopContainer("c1", 10.0)]


def test_the_revision_that_edges_serve_is_reported_whatever_replicas_do() -> None:
    play = Play().boot(wanted=target(replica(), revision=3))
    assert [report.edge_revision for report in play.saw(ReportStatus)][-1:] in ([], [0])
    play >> EdgeServing(1, play.machine.generation)
    assert play.saw(ReportStatus)[-1].edge_revision == 3
    assert play.saw(ReportStatus)[-1].applied_revision == 0
    play >> EdgeServing(0, 0)
    play >> SnapshotAccepted(target(replica(), revision=4))
    assert play.saw(ReportStatus)[-1].edge_revision == 3, "no edge is there"


def test_a_removed_replica_cancels_its_pull_at_once() -> None:
    play = Play().boot(wanted=target(replica()))
    play >> SnapshotAccepted(target(revision=2))
    assert play.saw(CancelPull) == [CancelPull(IMAGE)]
    assert play.gone == [replica().resource]
    play >> PullFailed(IMAGE, PullFailure.OTHER, "given up")
    assert play.saw(RecordEvent) == []


def test_a_pull_says_how_far_it_is_and_what_is_over_says_nothing() -> None:
    play = Play().boot(wanted=target(replica()))
    play >> PullProgressed(IMAGE, "1.0 of 4.0 MiB")
    assert play.status(replica()).reason == "its image is being pulled: 1.0 of 4.0 MiB"
    play >> PullProgressed("another", "3.0 of 4.0 MiB")
    assert play.status(replica()).reason == "its image is being pulled: 1.0 of 4.0 MiB"
    play >> PullFailed(IMAGE, PullFailure.UNREACHABLE, "connection refused") >> PullProgressed(IMAGE, "2.0 of 4.0 MiB")
    assert "MiB" not in play.status(replica()).reason
    assert (play.later(1.0) >> Ticked()).saw(PullImage) == [PullImage(IMAGE)]
    assert "MiB" not in play.status(replica()).reason


def test_a_replica_that_is_removed_while_it_starts_is_stopped_when_it_has() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> SnapshotAccepted(target(revision=2))
    play >> ContainerStarted(running("c1", replica()))
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]


def test_a_failed_pull_is_tried_again_ever_more_slowly_with_a_reason() -> None:
    play = Play().boot(wanted=target(replica()))
    for delay_s in (1.0, 2.0, 4.0):
        play >> PullFailed(IMAGE, PullFailure.UNREACHABLE, "connection refused")
        assert play.status(replica()).phase is Phase.BACKOFF
        assert "the registry cannot be reached" in play.status(replica()).reason
        assert play.saw(PullImage) == []
        assert play.saw(WakeAt) == [WakeAt(play.now + delay_s)]
        play.later(delay_s) >> Ticked()
        assert play.saw(PullImage) == [PullImage(IMAGE)]
    play >> ImagePulled(IMAGE)
    assert play.saw(CreateAndStart)


def test_a_crash_is_followed_by_a_pause_that_doubles() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    for number, delay_s in enumerate((1.0, 2.0, 4.0), start=1):
        play >> ContainerDied("c1", 3, 1e9)
        assert play.saw(CollectLogTail) == [CollectLogTail("c1")]
        assert play.endpoints() == []
        play >> LogTailCollected("c1", "no such table")
        status = play.status(replica())
        assert (status.phase, status.exit_code, status.log_tail) == (Phase.BACKOFF, 3, "no such table")
        play.later(delay_s - 0.01) >> Ticked()
        assert play.saw(StartContainer) == []
        play.later(0.01) >> Ticked()
        assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]
        play >> ContainerStarted(running("c1", replica()))
        assert play.status(replica()).restarts == number


def test_the_pause_never_exceeds_a_minute() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    for _ in range(12):
        play >> ContainerDied("c1", 1, 1e9)
        play.later(60) >> Ticked()
        assert play.saw(StartContainer)
        play >> ContainerStarted(running("c1", replica()))


def test_a_crash_after_a_while_of_health_is_answered_at_once() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    play.later(10) >> ContainerDied("c1", 137, 1e9)
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]


def test_a_container_that_died_before_its_start_was_told_is_known_to_be_dead() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> ContainerDied("c1", 1, 100.5)
    play >> ContainerStarted(running("c1", replica(), started_wall_s=100.0))
    assert play.status(replica()).phase is Phase.BACKOFF
    assert play.status(replica()).exit_code == 1


def test_old_news_of_a_death_is_no_death() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    play >> ContainerDied("c1", 1, 99.0)
    assert play.commands == []
    assert play.status(replica()).ready


def test_readiness_is_lost_and_regained_with_hysteresis() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    for _ in range(2):
        play >> ProbeFailed("c1", Purpose.READINESS, "status 500")
    assert play.status(replica()).ready
    play >> ProbeFailed("c1", Purpose.READINESS, "status 500")
    assert not play.status(replica()).ready
    assert play.status(replica()).reason == "status 500"
    assert play.endpoints() == []
    assert play.saw(StopContainer) == []
    play >> ProbeSucceeded("c1", Purpose.READINESS)
    assert play.endpoints() == ["c1"]


def test_a_container_that_is_not_alive_is_restarted() -> None:
    ailing = replica(liveness=Probe("tcp", 8080))
    play = Play().boot(wanted=target(ailing)).well("c1", ailing)
    for _ in range(3):
        play >> ProbeFailed("c1", Purpose.LIVENESS, "no answer")
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]
    assert play.endpoints() == []
    assert {stop.purpose for stop in play.saw(StopProbing)} == {Purpose.READINESS, Purpose.LIVENESS}
    play >> ContainerDied("c1", 143, 1e9)
    play >> ContainerStopped("c1")
    assert "liveness probe failed: no answer" in play.status(ailing).reason
    assert play.saw(RemoveContainer) == []
    play.later(1) >> Ticked()
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]


def test_a_container_that_cannot_be_started_again_is_made_anew() -> None:
    play = Play().boot(ended("c1", replica()), wanted=target(replica()))
    play >> StartFailed(identity(), "no such network")
    (observe,) = play.saw(Observe)
    play >> EngineObserved(observe.number, (ended("c1", replica()),))
    assert "no such network" in play.status(replica()).reason
    play.later(1) >> Ticked()
    assert play.saw(RemoveContainer) == [RemoveContainer("c1")]
    play >> ContainerRemoved("c1")
    assert play.saw(PullImage) == [PullImage(IMAGE)]
    play >> ImagePulled(IMAGE)
    assert play.saw(CreateAndStart)


def test_an_image_that_vanished_is_pulled_again() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> StartFailed(identity(), "no such image", image_missing=True)
    (observe,) = play.saw(Observe)
    play >> EngineObserved(observe.number, ())
    assert play.saw(PullImage) == [PullImage(IMAGE)]


def test_while_the_engine_is_away_everything_stays_as_it_is() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play >> EngineLost("cannot be reached")
    assert play.saw(PublishEdge) == []
    assert play.status(replica()).ready
    assert play.machine.engine_reason == "cannot be reached"
    play >> SnapshotAccepted(target(replica(), replica(1), revision=2))
    assert play.saw(PullImage) == play.saw(CreateAndStart) == []
    assert "cannot be reached" in play.status(replica(1)).reason
    play.later(3600) >> Ticked()
    assert play.saw(Observe) == []

    play >> EngineConnected()
    (observe,) = play.saw(Observe)
    play >> EngineObserved(observe.number, (running("c1", replica()),))
    assert play.saw(CreateAndStart) == [CreateAndStart(replica(1))]
    assert play.status(replica()).container_id == "c1"


def test_what_failed_for_want_of_an_engine_is_no_fault_of_the_replica() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> StartFailed(identity(), "connection refused", engine_lost=True)
    (first,) = play.saw(Observe)
    play >> EngineLost("connection refused")
    play >> EngineConnected()
    assert play.saw(Observe) == []
    play >> EngineObserved(first.number, ())
    (second,) = play.saw(Observe)
    assert play.saw(CreateAndStart) == []
    play >> EngineObserved(second.number, ())
    assert play.saw(CreateAndStart) == [CreateAndStart(replica())]


def test_a_listing_that_fails_is_tried_again() -> None:
    play = Play() >> SnapshotAccepted(target(replica()))
    play >> EngineConnected()
    play >> ObserveFailed(1, "it took too long")
    (wake,) = play.saw(WakeAt)
    play.later(wake.at - play.now) >> Ticked()
    assert play.saw(Observe) == [Observe(2)]


def test_a_listing_older_than_an_event_does_not_undo_it() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> EngineChanged()
    (observe,) = play.saw(Observe)
    play >> ContainerStarted(running("c1", replica()))
    play >> EngineObserved(observe.number, ())
    assert play.saw(CreateAndStart) == play.saw(PullImage) == []
    assert play.status(replica()).container_id == "c1"


def test_an_own_start_is_no_reason_to_look_again() -> None:
    play = Play().boot(wanted=target(replica())) >> ImagePulled(IMAGE)
    play >> EngineChanged(identity())
    assert play.saw(Observe) == []
    play >> ContainerStarted(running("c1", replica()))
    play >> EngineChanged(identity())
    assert play.saw(Observe) == []


def test_it_looks_again_from_time_to_time() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play.later(30) >> Ticked()
    assert len(play.saw(Observe)) == 1


def test_an_edge_that_is_ahead_gets_a_newer_generation() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica())
    play >> EdgeSeen(5000)
    (published,) = play.saw(PublishEdge)
    assert published.generation == 5001


def test_a_removal_that_fails_is_tried_again() -> None:
    play = Play().boot(ended("c1", replica()), wanted=target())
    assert play.saw(RemoveContainer) == [RemoveContainer("c1")]
    play >> EndFailed("c1", "device busy")
    (observe,) = play.saw(Observe)
    play >> EngineObserved(observe.number, (ended("c1", replica()),))
    assert play.saw(RemoveContainer) == []
    assert play.status(replica()).reason == "device busy"
    play.later(1) >> Ticked()
    assert play.saw(RemoveContainer) == [RemoveContainer("c1")]


def test_at_most_four_start_at_a_time() -> None:
    play = Play().boot(wanted=target(*(replica(n) for n in range(10)))) >> ImagePulled(IMAGE)
    assert [start.replica.ordinal for start in play.saw(CreateAndStart)] == [0, 1, 2, 3]
    play >> ContainerStarted(running("c0", replica()))
    assert [start.replica.ordinal for start in play.saw(CreateAndStart)] == [4]


def test_nothing_is_reported_twice() -> None:
    play = Play().boot(wanted=target(replica())).well("c1", replica()).edge_serves()
    play.later(1) >> ProbeSucceeded("c1", Purpose.READINESS)
    assert play.commands == []
    play >> Ticked()
    assert play.saw(ReportStatus) == play.saw(PublishEdge) == []


def test_a_container_that_lost_its_network_is_restarted() -> None:
    joined = replace(running("c1", replica()), sandbox="s1")
    play = Play().boot(joined, wanted=target(replica()))
    play >> ProbeSucceeded("c1", Purpose.READINESS)
    play >> SandboxLost("s2")
    assert play.saw(StopContainer) == []
    play >> SandboxLost("s1")
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]
    assert play.endpoints() == []
    assert not play.status(replica()).ready
    play >> ContainerStopped("c1")
    assert play.saw(StartContainer) == [StartContainer(identity(), "c1")]


def refused(elsewhere: bool = True) -> ProbeFailed:
    return ProbeFailed("c1", Purpose.READINESS, "nothing listens there so far", elsewhere)


def test_a_container_whose_address_is_another_s_too_is_replaced() -> None:
    play = Play().boot(running("c1", replica()), wanted=target(replica()))
    play >> refused()
    assert play.saw(StopContainer) == []
    play.later(2.9) >> refused()
    assert play.saw(StopContainer) == []
    play.later(0.2) >> refused()
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]
    assert [event.kind for event in play.saw(RecordEvent)] == ["AddressContested"]
    play.later(0.1) >> refused()
    assert play.commands == []
    play >> ContainerStopped("c1")
    play.later(1.1) >> Ticked()
    assert play.saw(RemoveContainer) == [RemoveContainer("c1")]
    play >> ContainerRemoved("c1")
    assert play.saw(PullImage) == [PullImage(IMAGE)]
    play >> ImagePulled(IMAGE)
    assert play.saw(CreateAndStart) == [CreateAndStart(replica())]


def test_an_address_that_was_another_s_for_a_moment_changes_nothing() -> None:
    play = Play().boot(running("c1", replica()), wanted=target(replica()))
    for answer in (refused(), refused(elsewhere=False), refused(), ProbeSucceeded("c1", Purpose.READINESS), refused()):
        play.later(2) >> answer
        assert play.saw(StopContainer) == []


def test_a_container_that_is_found_without_its_network_is_restarted() -> None:
    stranded = replace(running("c1", replica()), sandbox="s1", stranded=True, ip="")
    play = Play().boot(stranded, wanted=target(replica()))
    assert play.saw(StopContainer) == [StopContainer("c1", 5.0)]
    assert play.saw(StartProbing) == []
