"""What is known about one target: what own probes found, and what others say. Counted, never judged here.

One lost packet must not count for much, and one silent second must count for all. So a probe that stays without an
answer is not waited for: more are sent beside it, and each that ends in silence weighs one. With 10 % of packets
lost in each direction a probe over TCP fails one time in five, and twelve in a row about once in 10^8; a cut link
makes twelve within a second. A refusal or a wrong answer cannot be made by loss and weighs four.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from routing.core.model import Condition, Family, ForeignEvidence, TargetKey

SILENT_WEIGHT: Final = 1
ACTIVE_WEIGHT: Final = 4
SUSPECT_WEIGHT: Final = 6
"""From here on this vantage tells others that it finds the target failing."""

_ROUND_TRIP_SHARE: Final = 1 / 8
_VARIANCE_SHARE: Final = 1 / 4


@dataclass(frozen=True, slots=True)
class Target:
    """Something to probe: a node's edge at the first address of one family."""

    node: str
    family: Family
    region: str
    address: str
    port: int

    @property
    def key(self) -> TargetKey:
        """What identifies it."""
        return (self.node, self.family)


@dataclass(frozen=True, slots=True)
class Said:
    """What the control plane says about a target: the node's condition, what independent vantages found, and when
    either changed last (monotonic clock)."""

    condition: Condition = Condition.UNKNOWN
    vantages: tuple[ForeignEvidence, ...] = ()
    since: float = float("-inf")

    def agreeing(self) -> str:
        """Who agrees that the target fails, in words; empty when nobody does."""
        if self.condition in (Condition.SUSPECT, Condition.LOST):
            return f"the control plane finds the node {self.condition.value}"
        for vantage in self.vantages:
            if not vantage.healthy:
                return f"vantage {vantage.vantage} finds it failing"
        return ""

    def contrary(self) -> str:
        """Which vantage says that the target is in order; empty when none does."""
        return next((vantage.vantage for vantage in self.vantages if vantage.healthy), "")


@dataclass(frozen=True, slots=True)
class Probed:
    """What own probes found. Times are of the monotonic clock.

    `weight` is that of the failures since the last success; `attempts` counts the probes launched since then.
    `healthy_since` begins with the first success and ends when the weight makes the target suspect.
    """

    proven: bool = False
    weight: int = 0
    attempts: int = 0
    launched_at: float = float("-inf")
    answered_at: float = float("-inf")
    failing_since: float | None = None
    failed_at: float = float("-inf")
    active: bool = False
    reason: str = ""
    successes: int = 0
    healthy_since: float | None = None
    round_trip_s: float = 0.0
    variance_s: float = 0.0

    @property
    def suspect(self) -> bool:
        """Whether this vantage finds the target failing."""
        return self.weight >= SUSPECT_WEIGHT

    def timeout_s(self, floor_s: float, ceiling_s: float) -> float:
        """How long a probe may take, as TCP would wait for the target (RFC 6298, section 2)."""
        return min(ceiling_s, max(floor_s, self.round_trip_s + 4 * self.variance_s))

    def launched(self, now: float) -> Probed:
        """One more probe is under way."""
        return replace(self, attempts=self.attempts + 1, launched_at=now)

    def succeeded(self, now: float, round_trip_s: float) -> Probed:
        """A probe was answered: what failed before it counts no more."""
        if self.proven and self.round_trip_s:
            variance = abs(self.round_trip_s - round_trip_s)
            variance_s = self.variance_s + _VARIANCE_SHARE * (variance - self.variance_s)
            smooth_s = self.round_trip_s + _ROUND_TRIP_SHARE * (round_trip_s - self.round_trip_s)
        else:
            smooth_s, variance_s = round_trip_s, round_trip_s / 2
        return replace(
            self,
            proven=True,
            weight=0,
            attempts=0,
            answered_at=now,
            failing_since=None,
            active=False,
            reason="",
            successes=self.successes + 1,
            healthy_since=now if self.healthy_since is None else self.healthy_since,
            round_trip_s=smooth_s,
            variance_s=variance_s,
        )

    def failed(self, now: float, launched_at: float, silent: bool, reason: str) -> Probed:
        """A probe ended without success; one that was launched before the last success says nothing."""
        if launched_at < self.answered_at:
            return self
        weight = self.weight + (SILENT_WEIGHT if silent else ACTIVE_WEIGHT)
        suspect = weight >= SUSPECT_WEIGHT
        return replace(
            self,
            proven=self.proven or suspect,
            weight=weight,
            failing_since=launched_at if self.failing_since is None else self.failing_since,
            failed_at=now,
            active=not silent,
            reason=reason,
            successes=0 if suspect else self.successes,
            healthy_since=None if suspect else self.healthy_since,
        )
