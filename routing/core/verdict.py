"""The rules by which a target goes in or out of rotation. Each verdict names its rule, its evidence and its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from routing.core.brake import BrakePolicy, BrakeState, Sight
from routing.core.evidence import Probed, Said, Target
from routing.core.model import Condition


class Rule(Enum):
    """Why a verdict is what it is."""

    ASSUMED = "assumed"
    REMEMBERED = "remembered"
    OWN_PROBES = "own-probes"
    CORROBORATED = "corroborated"
    PARTIAL = "partial-failure"
    RECOVERED = "recovered"
    DRAINING = "draining"
    BRAKE = "brake"
    OTHERS = "other-vantages"


RETURN_STEP: Final = 10
_OWN_ALONE: Final = (Rule.OWN_PROBES, Rule.PARTIAL)
_FAILURES: Final = (Rule.OWN_PROBES, Rule.PARTIAL, Rule.CORROBORATED)


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """How much it takes. Weights as in `evidence`, times in seconds.

    What others say is fresh when it changed at most `fresh_s` before own probes began to fail. When another vantage
    finds the target in order, own probes must fail for `partial_s` before they are believed. After the first
    withdrawal an edge must be in order for `hold_s` to return, after each further one within `memory_s` twice as
    long, up to `hold_max_s`. For `settle_s` after each change, or for as long as it would be held back if that is
    longer, its region counts as unsteady. For `return_s` after its return, fewer and fewer clients are still sent
    elsewhere.
    """

    down_weight: int = 12
    settle_s: float = 30.0
    rise: int = 3
    hold_s: float = 2.0
    hold_max_s: float = 120.0
    memory_s: float = 600.0
    partial_s: float = 5.0
    fresh_s: float = 10.0
    return_s: float = 10.0
    brake: BrakePolicy = field(default_factory=BrakePolicy)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a target is in rotation, by which rule, on which evidence, since when (monotonic clock)."""

    in_rotation: bool
    rule: Rule
    evidence: str
    since: float


@dataclass(frozen=True, slots=True)
class TargetState:
    """All that is known of a target. `withdrawn_at` are the withdrawals that are still held against it."""

    target: Target
    verdict: Verdict
    said: Said = field(default_factory=Said)
    probed: Probed = field(default_factory=Probed)
    withdrawn_at: tuple[float, ...] = ()

    def ruled(self, verdict: Verdict, memory_s: float) -> TargetState:
        """The same with a new verdict; a withdrawal on failure is remembered, one that the brake undoes forgotten."""
        recent = tuple(time for time in self.withdrawn_at if verdict.since - time < memory_s)
        if verdict.rule in _FAILURES:
            recent = (*recent, verdict.since)
        elif verdict.rule is Rule.BRAKE:
            recent = recent[:-1]
        return replace(self, verdict=verdict, withdrawn_at=recent)

    def sight(self, now: float, window_s: float) -> Sight:
        """The target as the brake sees it: in rotation, or withdrawn a moment ago on own probes alone.

        Only silence is dark: a refusal is an answer, and whoever gets answers is not cut off.
        """
        verdict = self.verdict
        counted = verdict.in_rotation or (verdict.rule in _OWN_ALONE and now - verdict.since < window_s)
        dark = self.probed.suspect and not self.probed.active
        return Sight(self.target.region, dark, counted, self.probed.answered_at)


def kept_away(verdict: Verdict, policy: FailoverPolicy, now: float) -> int:
    """How many of a hundred clients are still sent elsewhere although a target is back in rotation: cold caches and
    full queues get their load bit by bit."""
    if verdict.rule is not Rule.RECOVERED or not verdict.in_rotation or now >= verdict.since + policy.return_s:
        return 0
    return int(100 * (1 - (now - verdict.since) / policy.return_s)) // RETURN_STEP * RETURN_STEP


def hold_s(state: TargetState, policy: FailoverPolicy, now: float) -> float:
    """How long a withdrawn target must be in order before it returns: it doubles with each recent withdrawal."""
    recent = sum(1 for time in state.withdrawn_at if now - time < policy.memory_s)
    return min(policy.hold_max_s, policy.hold_s * 2.0 ** (recent - 1)) if recent else 0.0


def judge(
    state: TargetState,
    policy: FailoverPolicy,
    feed_alive: bool,
    brake: BrakeState,
    sights: Callable[[], Iterable[Sight]],
    now: float,
) -> Verdict | None:
    """The new verdict on a target, or None when the old one stands. `sights` are all targets of its family."""
    if state.verdict.in_rotation:
        verdict = _judge_in(state, policy, feed_alive, brake, now)
        # A refusal leaves no doubt of the way to it; silence does, until others have answered.
        if verdict is None or verdict.rule not in _OWN_ALONE or state.probed.active:
            return verdict
        since = state.probed.failing_since
        return None if since is not None and policy.brake.unsure(sights(), since, now) else verdict
    return _judge_out(state, policy, feed_alive, brake, now)


def _judge_in(
    state: TargetState, policy: FailoverPolicy, feed_alive: bool, brake: BrakeState, now: float
) -> Verdict | None:
    said, probed = state.said, state.probed
    if said.condition is Condition.DRAINING:
        return Verdict(False, Rule.DRAINING, "the node is draining", now)
    if not probed.suspect or probed.failing_since is None:
        return None
    failing = f"own probes fail for {now - probed.failing_since:.1f} s ({probed.reason})"
    fresh = feed_alive and said.since >= probed.failing_since - policy.fresh_s
    agreeing = said.agreeing() if fresh else ""
    if agreeing:
        return Verdict(False, Rule.CORROBORATED, f"{failing}; {agreeing}", now)
    if probed.weight < policy.down_weight or brake.applied:
        return None
    contrary = said.contrary() if feed_alive else ""
    if not contrary:
        feed = "nobody says otherwise" if feed_alive else "the control plane is out of reach"
        return Verdict(False, Rule.OWN_PROBES, f"{failing}; {feed}", now)
    if now - probed.failing_since < policy.partial_s:
        return None
    return Verdict(False, Rule.PARTIAL, f"{failing}, although vantage {contrary} finds it in order", now)


def _judge_out(
    state: TargetState, policy: FailoverPolicy, feed_alive: bool, brake: BrakeState, now: float
) -> Verdict | None:
    said, probed, verdict = state.said, state.probed, state.verdict
    if said.condition is Condition.DRAINING:
        return None
    if brake.applied and probed.suspect:
        if verdict.rule in _OWN_ALONE and now - verdict.since <= policy.brake.window_s:
            return Verdict(True, Rule.BRAKE, f"own probes find {', '.join(brake.dark)} dark at once", now)
        contrary = said.contrary() if feed_alive and said.condition is Condition.READY else ""
        if contrary and not said.agreeing():
            return Verdict(True, Rule.OTHERS, f"vantage {contrary} finds it in order and own probes are blind", now)
    if probed.healthy_since is None or probed.successes < policy.rise:
        return None
    held_s = now - probed.healthy_since
    if held_s < hold_s(state, policy, now):
        return None
    return Verdict(True, Rule.RECOVERED, f"{probed.successes} good probes over {held_s:.1f} s", now)
