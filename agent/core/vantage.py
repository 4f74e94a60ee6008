"""What this host sees of other regions' edges: by looks of its own, and by what came of requests passed to them.

A look is several overlapping probes of which one good one is enough. With 10 % of packets lost in each direction a
probe over TCP fails one time in five, and eight in a row about once in 10^6; a cut link fails them all within a second.
So a look that fails is worth telling. It is told as evidence; whether it counts is decided elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

LOOK_INTERVAL_S: Final = 1.0
PROBES: Final = 8
PROBE_PAUSE_S: Final = 0.05
PATIENCE_S: Final = 0.15
"""After so long without an answer to the first probe of a look the others follow."""
PROBE_TIMEOUT_S: Final = 0.5
FIRST_TIMEOUT_S: Final = 2.0
"""Before anything is known of a node."""
ROUND_TRIPS: Final = 3.0
"""A probe of a node that is far away may take so many round trips; a good answer takes two. With more of them this
vantage would go on to vouch for a node that is gone when DNS servers know already."""
RISE: Final = 3
"""Looks that must be good before a node that failed is called in order."""
WATCHED_MAX: Final = 8
_PASSES_FAILED_MIN: Final = 3
_PASSES_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another region's node, and where its edge listens for clients' probes."""

    node: str
    region: str
    address: str


def watched(own_node: str, own_region: str, neighbours: Iterable[Neighbour]) -> tuple[Neighbour, ...]:
    """Whom this host looks at: a few nodes of other regions, drawn so that each node is looked at by a few hosts
    however large the fleet is (rendezvous hashing)."""

    def lot(neighbour: Neighbour) -> bytes:
        return hashlib.blake2b(f"{own_node}/{neighbour.node}".encode(), digest_size=8).digest()

    others = {n.node: n for n in neighbours if n.region != own_region and n.node != own_node}
    return tuple(sorted(others.values(), key=lot)[:WATCHED_MAX])


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found of one node. Times are monotonic seconds; `healthy` is None before anything is known."""

    healthy: bool | None = None
    since: float = 0.0
    reason: str = ""
    good_looks: int = 0
    round_trip_s: float = 0.0

    def looked(self, reason: str, now: float, round_trip_s: float = 0.0) -> Sight:
        """After a look; without a reason it was good."""
        if reason:
            since = self.since if self.healthy is False else now
            return Sight(False, since, reason, round_trip_s=self.round_trip_s)
        looks = self.good_looks + 1
        if self.healthy is True or (self.healthy is False and looks < RISE):
            return replace(self, good_looks=looks, round_trip_s=round_trip_s)
        return Sight(True, now, "", looks, round_trip_s)


def probe_timeout_s(sight: Sight) -> float:
    """How long a probe of a node may take, by what was found of it."""
    return max(PROBE_TIMEOUT_S, ROUND_TRIPS * sight.round_trip_s) if sight.healthy is not None else FIRST_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Passes:
    """Requests that edges of this host passed to a node in the last seconds: times, answered and lost."""

    counts: tuple[tuple[float, int, int], ...] = ()
    reason: str = ""

    def counted(self, answered: int, failed: int, reason: str, now: float) -> Passes:
        """With what an edge has told now."""
        return Passes((*self._recent(now), (now, answered, failed)), reason or self.reason)

    def trouble(self, now: float) -> str:
        """Why the node must be taken for failing, in a sentence; empty when it need not."""
        recent = self._recent(now)
        answered, failed = sum(n for _, n, _ in recent), sum(n for _, _, n in recent)
        if answered or failed < _PASSES_FAILED_MIN:
            return ""
        what = f"{failed} requests that were passed to it in {_PASSES_S:g} s were lost, and none was answered"
        return f"{what} ({self.reason})"

    def _recent(self, now: float) -> tuple[tuple[float, int, int], ...]:
        return tuple(count for count in self.counts[-32:] if now - count[0] < _PASSES_S)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is told of a node."""

    node: str
    healthy: bool
    since: float
    reason: str = ""
    round_trip_s: float = 0.0


def findings(sights: Mapping[str, Sight], passes: Mapping[str, Passes], now: float) -> tuple[Finding, ...]:
    """All that this vantage finds, by node: lost requests count as much as looks of its own."""
    result = []
    for node in sorted(sights.keys() | passes.keys()):
        sight = sights.get(node, Sight())
        trouble = passes[node].trouble(now) if node in passes else ""
        if trouble or sight.healthy is False:
            since = sight.since if sight.healthy is False else now
            result.append(Finding(node, False, since, sight.reason if sight.healthy is False else trouble))
        elif sight.healthy:
            result.append(Finding(node, True, sight.since, "", sight.round_trip_s))
    return tuple(result)
