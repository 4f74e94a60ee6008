"""Images that are to be here before a replica needs them."""

from __future__ import annotations

from dataclasses import replace

from agent.core.messages import ImagePulled, PullFailed, PullImage, ReportStatus, SnapshotAccepted
from agent.core.model import HeldImage, Phase, PullFailure
from tests.unit.agent.play import IMAGE, Play, replica, target

LATER = "registry.test/web@sha256:" + "2" * 64
HELD = HeldImage("images/abc", "v1", LATER)


def test_an_image_is_pulled_without_a_replica_and_after_those_that_start_now() -> None:
    play = Play().boot()
    play >> SnapshotAccepted(replace(target(replica()), images=(HELD,)))
    assert [pull.image for pull in play.saw(PullImage)] == [IMAGE, LATER]
    assert play.machine.statuses["images/abc"].phase is Phase.PULLING
    play >> ImagePulled(LATER)
    [report] = play.saw(ReportStatus)
    assert [(s.resource, s.ready, s.phase) for s in report.changed] == [("images/abc", True, Phase.HELD)]


def test_why_it_is_not_here_is_said_and_it_is_tried_again() -> None:
    play = Play().boot()
    play >> SnapshotAccepted(replace(target(), images=(HELD,)))
    play >> PullFailed(LATER, PullFailure.UNREACHABLE, "connection refused")
    status = play.machine.statuses["images/abc"]
    assert (status.ready, status.phase) == (False, Phase.BACKOFF)
    assert "connection refused" in status.reason


def test_one_that_is_no_longer_to_be_held_is_no_longer_told_of() -> None:
    play = Play().boot()
    play >> SnapshotAccepted(replace(target(), images=(HELD,)))
    play >> SnapshotAccepted(target(revision=2))
    assert [name for report in play.saw(ReportStatus) for name in report.gone] == ["images/abc"]
