"""The one brain, event by event: `>>` what happened, `<<` what followed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routing.core.cadence import Cadence
from routing.core.evidence import Probed
from routing.core.failover import (
    ChangeRotation,
    Command,
    Failover,
    FeedChanged,
    LookAround,
    ProbeFailed,
    ProbeLaunched,
    ProbeSucceeded,
    ReportBrake,
    ReportEvidence,
    TableAccepted,
)
from routing.core.model import Condition, EdgeEndpoint, Family, ForeignEvidence, Region, RoutingTable, TargetKey
from routing.core.verdict import Rule, Verdict
from tests.unit.routing.tables import regions

EU, US, AP = (("eu-1", Family.IPV4), ("us-1", Family.IPV4), ("ap-1", Family.IPV4))


def table(**of: EdgeEndpoint) -> RoutingTable:
    """The three regions, with some edges replaced."""
    found = {name: replace(r, edges=(of.get(name, r.edges[0]),)) for name, r in regions().items()}
    return RoutingTable(1, {}, found, {})


def edge(name: str, number: int, **changes: object) -> EdgeEndpoint:
    return EdgeEndpoint(f"{name}-1", (f"192.0.2.{number}1",), **{"condition": Condition.READY, **changes})  # type: ignore[arg-type]


class Play:
    """A brain at `us` with a clock in hand; all targets have answered once."""

    def __init__(self, feed: bool = True, of: RoutingTable | None = None, settled: bool = True):
        self.brain = Failover("us-1", "us")
        self.now = 100.0
        self.brain.handle(TableAccepted(of or table()), self.now)
        self.brain.handle(FeedChanged(feed), self.now)
        if settled:
            self.succeed(EU, US, AP)

    def succeed(self, *keys: TargetKey, after: float = 0.0) -> list[Command]:
        self.now += after
        return [c for key in keys for c in self.brain.handle(ProbeSucceeded(key, 0.001), self.now)]

    def fail(self, *keys: TargetKey, times: int = 1, silent: bool = True) -> list[Command]:
        commands: list[Command] = []
        for _ in range(times):
            self.now += 0.05
            for key in keys:
                failed = ProbeFailed(key, self.now, silent, "no answer" if silent else "connection refused")
                commands += self.brain.handle(failed, self.now)
        return commands

    def see_others(self, *keys: TargetKey) -> None:
        """The others answer, so that it is not us."""
        self.succeed(*keys)

    def verdict(self, key: TargetKey) -> Verdict:
        return self.brain.targets[key].verdict


def rotations(commands: list[Command]) -> list[tuple[str, bool, Rule]]:
    return [(c.target.node, c.verdict.in_rotation, c.verdict.rule) for c in commands if isinstance(c, ChangeRotation)]


@pytest.mark.parametrize("feed", [True, False])
def test_silence_withdraws_by_own_probes(feed: bool) -> None:
    play = Play(feed)
    assert rotations(play.fail(EU, times=6)) == []
    play.see_others(US, AP)
    commands = play.fail(EU, times=6)
    assert rotations(commands) == [("eu-1", False, Rule.OWN_PROBES)]
    (change,) = (c for c in commands if isinstance(c, ChangeRotation))
    assert change.region_changed
    assert "no answer" in change.verdict.evidence
    assert ("nobody says otherwise" if feed else "out of reach") in change.verdict.evidence


def test_eleven_lost_probes_withdraw_nothing() -> None:
    play = Play()
    for _ in range(5):
        assert rotations(play.fail(EU, times=11)) == []
        play.succeed(EU, US, AP)
    assert play.brain.targets[EU].probed.weight == 0


def test_refusals_weigh_more_and_need_nobody_else() -> None:
    assert rotations(Play().fail(EU, times=3, silent=False)) == [("eu-1", False, Rule.OWN_PROBES)]


def test_an_old_failure_after_a_success_says_nothing() -> None:
    play = Play()
    play.brain.handle(ProbeFailed(EU, play.now - 1, True, "late"), play.now)
    assert play.brain.targets[EU].probed.weight == 0


@pytest.mark.parametrize("condition", [Condition.SUSPECT, Condition.LOST])
def test_the_control_plane_corroborates(condition: Condition) -> None:
    play = Play()
    play.brain.handle(TableAccepted(table(eu=edge("eu", 1, condition=condition))), play.now)
    assert play.verdict(EU).in_rotation
    assert rotations(play.fail(EU, times=5)) == []
    assert rotations(play.fail(EU, times=1)) == [("eu-1", False, Rule.CORROBORATED)]


def test_with_a_dead_feed_what_others_said_counts_no_more() -> None:
    play = Play(feed=False)
    play.brain.handle(TableAccepted(table(eu=edge("eu", 1, condition=Condition.LOST))), play.now)
    assert rotations(play.fail(EU, times=6)) == []


def test_old_agreement_is_not_fresh() -> None:
    play = Play(of=table(eu=edge("eu", 1, condition=Condition.LOST)), settled=False)
    for _ in range(3):
        play.succeed(EU, US, AP, after=10)
    assert play.verdict(EU).in_rotation
    assert rotations(play.fail(EU, times=11)) == []


def said(vantage: str, healthy: bool) -> tuple[ForeignEvidence, ...]:
    return (ForeignEvidence(vantage, healthy, healthy),)


@pytest.mark.parametrize(
    ("vantage", "healthy", "withdrawn_after"),
    [
        ("ap-1", False, 6),  # independent: agrees
        ("ap-1", True, 0),  # independent: disagrees, so own probes wait
        ("eu-1", True, 12),  # the target itself
        ("us-1", False, 12),  # ourselves
        ("dns-9", False, 6),  # of unknown place: its "failing" counts
        ("dns-9", True, 12),  # its "in order" does not
    ],
)
def test_other_vantages(vantage: str, healthy: bool, withdrawn_after: int) -> None:
    play = Play()
    play.brain.handle(TableAccepted(table(eu=edge("eu", 1, evidence=said(vantage, healthy)))), play.now)
    for number in range(1, 31):
        commands = play.fail(EU)
        play.see_others(US, AP)
        if rotations(commands):
            assert number == withdrawn_after
            return
    assert withdrawn_after == 0


def test_a_partial_failure_is_believed_after_a_while() -> None:
    play = Play()
    play.brain.handle(TableAccepted(table(eu=edge("eu", 1, evidence=said("ap-1", True)))), play.now)
    play.fail(EU, times=20)
    play.now += 5
    play.see_others(US, AP)
    assert rotations(play.fail(EU)) == [("eu-1", False, Rule.PARTIAL)]


def test_return_takes_three_successes_and_the_hold() -> None:
    play = Play()
    play.fail(EU, times=3, silent=False)
    assert rotations(play.succeed(EU)) == []
    assert rotations(play.succeed(EU, after=1)) == []
    assert rotations(play.succeed(EU, after=0.5)) == []
    assert rotations(play.succeed(EU, after=0.5)) == [("eu-1", True, Rule.RECOVERED)]


def test_one_lost_probe_does_not_break_a_recovery() -> None:
    play = Play()
    play.fail(EU, times=3, silent=False)
    play.succeed(EU, after=1)
    play.fail(EU, times=3)
    play.succeed(EU, after=1)
    assert rotations(play.succeed(EU, after=1)) == [("eu-1", True, Rule.RECOVERED)]


def test_each_withdrawal_doubles_the_hold() -> None:
    play, holds = Play(), []
    for _ in range(9):
        play.fail(EU, times=3, silent=False)
        began = play.now
        play.succeed(EU)
        while not play.verdict(EU).in_rotation:
            play.succeed(EU, after=0.5)
        holds.append(play.now - began)
    assert holds == [pytest.approx(s) for s in (2, 4, 8, 16, 32, 64, 120, 120, 120)]
    play.now += 700
    play.fail(EU, times=3, silent=False)
    play.succeed(EU)
    assert len(play.brain.targets[EU].withdrawn_at) == 1


def test_draining_leaves_at_once_and_returns_by_probes() -> None:
    play = Play()
    draining = play.brain.handle(TableAccepted(table(eu=edge("eu", 1, condition=Condition.DRAINING))), play.now)
    assert rotations(draining) == [("eu-1", False, Rule.DRAINING)]
    assert rotations(play.succeed(EU, after=1)) == []
    back = play.brain.handle(TableAccepted(table()), play.now)
    assert rotations(back + play.succeed(EU, after=1) + play.succeed(EU, after=1)) == [("eu-1", True, Rule.RECOVERED)]


def test_revoked_nodes_are_no_targets() -> None:
    play = Play(of=table(eu=edge("eu", 1, condition=Condition.REVOKED)))
    assert set(play.brain.targets) == {US, AP}


@pytest.mark.parametrize(
    ("condition", "assumed"),
    [
        (Condition.READY, True),
        (Condition.UNKNOWN, True),
        (Condition.JOINING, False),
        (Condition.SUSPECT, False),
        (Condition.LOST, False),
        (Condition.DRAINING, False),
    ],
)
def test_before_probes_have_spoken(condition: Condition, assumed: bool) -> None:
    of = table(eu=edge("eu", 1, condition=condition))
    assert Play(of=of, settled=False).verdict(EU).in_rotation is assumed
    for remembered in (True, False):
        brain = Failover("us-1", "us")
        brain.handle(TableAccepted(of, {EU: remembered}), 0.0)
        assert brain.targets[EU].verdict.in_rotation is (remembered and condition is not Condition.DRAINING)


def test_the_brake_holds_when_most_goes_dark() -> None:
    play = Play()
    commands = play.fail(EU, AP, times=30)
    assert rotations(commands) == []
    assert [(c.family, c.state.applied, c.state.dark) for c in commands if isinstance(c, ReportBrake)] == [
        (Family.IPV4, True, ("ap", "eu"))
    ]
    assert play.brain.brake(Family.IPV4).applied
    assert any(isinstance(c, ReportBrake) and not c.state.applied for c in play.succeed(EU, AP))


def test_the_brake_undoes_what_was_withdrawn_a_moment_before() -> None:
    play = Play()
    play.fail(EU, times=6)
    play.see_others(US, AP)
    play.fail(EU, times=6)
    assert not play.verdict(EU).in_rotation
    assert rotations(play.fail(AP, times=6)) == [("eu-1", True, Rule.BRAKE)]
    assert play.brain.targets[EU].withdrawn_at == ()


def test_refusals_are_no_reason_to_suspect_oneself() -> None:
    assert len(rotations(Play().fail(EU, AP, times=3, silent=False))) == 2


def test_others_that_agree_pass_the_brake() -> None:
    play = Play()
    play.fail(EU, AP, times=13)
    lost = play.brain.handle(TableAccepted(table(eu=edge("eu", 1, condition=Condition.SUSPECT))), play.now)
    assert rotations(lost) == [("eu-1", False, Rule.CORROBORATED)]


def test_the_brake_lets_go_when_another_region_answers_all_the_time() -> None:
    names = ("a", "b", "c", "d")
    keys = [(f"{name}-1", Family.IPV4) for name in names]
    of = {name: Region(name, 0, i, edges=(edge(name, i + 1),)) for i, name in enumerate(names)}
    play = Play(of=RoutingTable(1, {}, of, {}), settled=False)
    play.succeed(*keys)
    play.fail(*keys[:3], times=13)
    assert play.brain.brake(Family.IPV4).applied
    play.now += 31
    play.succeed(keys[3])
    assert {node for node, _, _ in rotations(play.fail(*keys[:3]))} <= {"a-1", "b-1", "c-1"}
    assert play.brain.rotation() == {keys[3]}


def test_evidence_is_told_early_and_once() -> None:
    play = Play()
    commands = play.fail(EU, times=10)
    assert [c for c in commands if isinstance(c, ReportEvidence)] == [ReportEvidence(EU)]
    assert ReportEvidence(EU) in play.succeed(EU)


def test_the_third_probe_in_a_row_makes_it_look_around() -> None:
    play = Play()
    launched = [play.brain.handle(ProbeLaunched(EU), play.now + 1 + i / 10) for i in range(4)]
    assert launched == [[], [], [LookAround()], []]


def test_events_of_targets_that_are_gone_are_ignored() -> None:
    play = Play()
    gone = ("gone", Family.IPV6)
    for event in (ProbeLaunched(gone), ProbeSucceeded(gone, 0.1), ProbeFailed(gone, 0.0, True, "")):
        assert play.brain.handle(event, play.now) == []


def test_a_moved_target_is_probed_anew() -> None:
    play = Play()
    play.brain.handle(TableAccepted(table(eu=edge("eu", 9))), play.now)
    assert play.brain.targets[EU].probed == Probed()
    assert play.verdict(EU).in_rotation


def test_cadence() -> None:
    cadence = Cadence()
    calm = Probed().succeeded(0.0, 0.001).launched(1.0)
    answered = calm.succeeded(1.001, 0.001)
    assert cadence.due_at(answered, True, float("-inf")) == 2.0
    assert cadence.due_at(calm, True, float("-inf")) == 1.15
    assert cadence.due_at(calm.launched(1.15), True, float("-inf")) == pytest.approx(1.2)
    assert cadence.due_at(answered, True, 1.5) == 1.5
    assert cadence.due_at(answered, False, float("-inf")) == 1.25
    dead = calm.failed(1.5, 1.0, False, "refused").failed(1.6, 1.1, False, "refused")
    assert cadence.due_at(dead, True, float("-inf")) == 1.25
    assert cadence.due_at(dead, False, float("-inf")) == 2.0
    far = Probed().succeeded(0.0, 0.3)
    assert cadence.probe_timeout_s(far) == pytest.approx(0.9)
    assert cadence.probe_timeout_s(calm) == 0.5


def test_a_region_is_unsteady_for_a_while_after_each_change_and_longer_when_it_flaps() -> None:
    play = Play()
    assert play.brain.unsteady(play.now) == frozenset()
    play.fail(EU, times=3, silent=False)
    gone_at = play.now
    assert play.brain.unsteady(gone_at) == {"eu"}
    assert play.brain.unsteady(gone_at + 29.9) == {"eu"}
    assert play.brain.unsteady(gone_at + 30) == frozenset()
    for _ in range(5):
        while not play.verdict(EU).in_rotation:
            play.succeed(EU, after=1)
        play.fail(EU, times=3, silent=False)
    assert play.brain.unsteady(play.now + 60) == {"eu"}, "it is held back for 64 s by now"
