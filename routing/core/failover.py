"""The one brain: whether each edge is in rotation, from own probes, the control plane's view and other vantages.

Events in, commands out; every verdict names its rule, its evidence and since when it holds. With a dead feed own
probes decide alone. The control plane's word alone never withdraws an edge that own probes find in order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, assert_never

from routing.core.brake import BrakeState, Sight
from routing.core.cadence import Cadence
from routing.core.evidence import Probed, Said, Target
from routing.core.model import Condition, EdgeEndpoint, Family, ForeignEvidence, Region, RoutingTable, TargetKey
from routing.core.verdict import FailoverPolicy, Rule, TargetState, Verdict, hold_s, judge, kept_away

_ALARM_ATTEMPTS: Final = 3


# Events


@dataclass(frozen=True, slots=True)
class TableAccepted:
    """There is a new routing table. `remembered` are verdicts from before a restart."""

    table: RoutingTable
    remembered: Mapping[TargetKey, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeedChanged:
    """The stream to the control plane stands or fell: with a dead feed what others say counts no more."""

    alive: bool


@dataclass(frozen=True, slots=True)
class ProbeLaunched:
    """A probe is under way."""

    key: TargetKey


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """A probe was answered."""

    key: TargetKey
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A probe was not answered in time (`silent`), or answered wrongly."""

    key: TargetKey
    launched_at: float
    silent: bool
    reason: str


Event = TableAccepted | FeedChanged | ProbeLaunched | ProbeSucceeded | ProbeFailed


# Commands


@dataclass(frozen=True, slots=True)
class ChangeRotation:
    """Answers must follow: this target goes in or out of rotation."""

    target: Target
    verdict: Verdict
    region_changed: bool


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """What this vantage finds has changed: tell the others."""

    key: TargetKey


@dataclass(frozen=True, slots=True)
class LookAround:
    """A target began to fail: probes of all others are due now, so that the brake sees the whole in time."""


@dataclass(frozen=True, slots=True)
class ReportBrake:
    """The brake was applied or released for a family."""

    family: Family
    state: BrakeState


Command = ChangeRotation | ReportEvidence | LookAround | ReportBrake


class Failover:
    """The machine; `handle` is the only way in. `region` and `node` are where this vantage itself is."""

    def __init__(
        self, node: str, region: str, policy: FailoverPolicy | None = None, cadence: Cadence | None = None
    ) -> None:
        self.policy = policy or FailoverPolicy()
        self.cadence = cadence or Cadence()
        self._node = node
        self._region = region
        self._targets: dict[TargetKey, TargetState] = {}
        self._feed_alive = False
        self._brakes = {family: BrakeState() for family in Family}
        self._alarm_at = float("-inf")
        self._unsteady: dict[str, float] = {}
        """By region, until when it counts as unsteady."""

    @property
    def targets(self) -> Mapping[TargetKey, TargetState]:
        """Everything that is known now."""
        return self._targets

    @property
    def feed_alive(self) -> bool:
        """Whether what others say counts."""
        return self._feed_alive

    def brake(self, family: Family) -> BrakeState:
        """The brake of a family."""
        return self._brakes[family]

    def region_in_rotation(self, region: str) -> bool:
        """Whether any edge of a region is in rotation."""
        return any(s.verdict.in_rotation for s in self._targets.values() if s.target.region == region)

    def rotation(self) -> frozenset[TargetKey]:
        """What answers may name."""
        return frozenset(key for key, state in self._targets.items() if state.verdict.in_rotation)

    def returning(self, now: float) -> dict[str, int]:
        """Nodes that came back a moment ago, and how many of a hundred clients are still sent elsewhere."""
        shares: dict[str, int] = {}
        for (node, _), state in self._targets.items():
            share = kept_away(state.verdict, self.policy, now)
            if share:
                shares[node] = max(share, shares.get(node, 0))
        return shares

    def unsteady(self, now: float) -> frozenset[str]:
        """Regions of which an edge went in or out of rotation a moment ago, or does so again and again."""
        self._unsteady = {region: until for region, until in self._unsteady.items() if now < until}
        return frozenset(self._unsteady)

    @property
    def cut_proven_within_s(self) -> float:
        """The worst case from the cut of a target to the last probe that proves it, by how long answers take now."""
        return self.cadence.cut_proven_within_s(s.probed for s in self._targets.values() if s.verdict.in_rotation)

    def due_at(self, key: TargetKey) -> float:
        """When the next probe of a target is due."""
        state = self._targets[key]
        return self.cadence.due_at(state.probed, state.verdict.in_rotation, self._alarm_at)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Takes in what happened at `now` (monotonic clock) and says what follows. An event of a target that is no
        more is ignored."""
        match event:
            case TableAccepted():
                return self._take_table(event, now)
            case FeedChanged(alive):
                self._feed_alive = alive
                return self._judge(self._targets, now)
            case ProbeLaunched(key):
                return self._launched(key, now)
            case ProbeSucceeded(key, round_trip_s):
                return self._probed(key, lambda probed: probed.succeeded(now, round_trip_s), now)
            case ProbeFailed(key, launched_at, silent, reason):
                return self._probed(key, lambda probed: probed.failed(now, launched_at, silent, reason), now)
            case _:
                assert_never(event)

    def _take_table(self, event: TableAccepted, now: float) -> list[Command]:
        edges = [(edge, region.id) for region in event.table.regions.values() for edge in region.edges]
        homes = {edge.node: region for edge, region in edges}
        unheard = {edge.node for edge, _ in edges if edge.condition in (Condition.SUSPECT, Condition.LOST)}
        before, self._targets = self._targets, {}
        for region, edge, target in _targets(event.table):
            independent = self._independent(edge.evidence, homes, unheard, region.id)
            known = before.get(target.key)
            if known is None:
                verdict = _first_verdict(edge.condition, event.remembered.get(target.key), now)
                state = TargetState(target, verdict, Said(edge.condition, independent, now))
            else:
                said = known.said
                if (said.condition, said.vantages) != (edge.condition, independent):
                    said = Said(edge.condition, independent, now)
                moved = (known.target.address, known.target.port) != (target.address, target.port)
                state = replace(known, target=target, said=said, probed=Probed() if moved else known.probed)
            self._targets[target.key] = state
        return self._judge(self._targets, now)

    def _independent(
        self,
        evidence: Iterable[ForeignEvidence],
        homes: Mapping[str, str],
        unheard: Collection[str],
        region: str,
    ) -> tuple[ForeignEvidence, ...]:
        """What vantages say that share neither our own place nor the target's: those would fail with one of them.

        One of which the control plane hears nothing may be cut off, and its last word be old; where a host without an
        edge is, and whether it is heard, the table does not tell. Of those only "failing" counts.
        """
        near = (region, self._region)
        found = []
        for said in evidence:
            home = homes.get(said.vantage)
            old = home is None or said.vantage in unheard
            if said.vantage != self._node and home not in near and not (old and said.healthy):
                found.append(said)
        return tuple(found)

    def _launched(self, key: TargetKey, now: float) -> list[Command]:
        state = self._targets.get(key)
        if state is None:
            return []
        probed = state.probed.launched(now)
        self._targets[key] = replace(state, probed=probed)
        failing = probed.attempts == _ALARM_ATTEMPTS and state.verdict.in_rotation
        if not failing or now - self._alarm_at < self.cadence.interval_s:
            return []
        self._alarm_at = now
        return [LookAround()]

    def _probed(self, key: TargetKey, change: Callable[[Probed], Probed], now: float) -> list[Command]:
        state = self._targets.get(key)
        if state is None:
            return []
        probed = change(state.probed)
        self._targets[key] = replace(state, probed=probed)
        commands: list[Command] = []
        if (state.probed.suspect, state.probed.proven) != (probed.suspect, probed.proven):
            commands.append(ReportEvidence(key))
        # The brake is for a whole family: while anything is dark, all of its targets are looked at together.
        if probed.suspect or state.probed.suspect or self._brakes[key[1]].applied:
            return commands + self._judge([k for k in self._targets if k[1] is key[1]], now)
        return commands + self._rule_on([key], now)

    def _judge(self, keys: Collection[TargetKey], now: float) -> list[Command]:
        commands: list[Command] = []
        for family in {key[1]: None for key in keys}:
            commands += self._look(family, now)
        return commands + self._rule_on(keys, now)

    def _rule_on(self, keys: Iterable[TargetKey], now: float) -> list[Command]:
        commands: list[Command] = []
        for key in tuple(keys):
            state = self._targets[key]
            family = key[1]
            sights = partial(self._sights, family, now)
            verdict = judge(state, self.policy, self._feed_alive, self._brakes[family], sights, now)
            if verdict is not None:
                commands.append(self._rule(state, verdict))
        return commands

    def _look(self, family: Family, now: float) -> list[Command]:
        before = self._brakes[family]
        after = self._brakes[family] = self.policy.brake.next(before, self._sights(family, now), self._region, now)
        return [ReportBrake(family, after)] if before.applied != after.applied else []

    def _sights(self, family: Family, now: float) -> list[Sight]:
        window_s = self.policy.brake.window_s
        return [s.sight(now, window_s) for s in self._targets.values() if s.target.family is family]

    def _rule(self, state: TargetState, verdict: Verdict) -> ChangeRotation:
        target = state.target
        before = self.region_in_rotation(target.region)
        after = self._targets[target.key] = state.ruled(verdict, self.policy.memory_s)
        settled_at = verdict.since + max(self.policy.settle_s, hold_s(after, self.policy, verdict.since))
        self._unsteady[target.region] = max(settled_at, self._unsteady.get(target.region, settled_at))
        return ChangeRotation(target, verdict, before != self.region_in_rotation(target.region))


def _targets(table: RoutingTable) -> Iterator[tuple[Region, EdgeEndpoint, Target]]:
    """What to probe: the first address of each family of each edge that is not revoked."""
    for region in table.regions.values():
        for edge in region.edges:
            for family in Family:
                addresses = edge.addresses(family)
                if addresses and edge.condition is not Condition.REVOKED:
                    yield region, edge, Target(edge.node, family, region.id, addresses[0], edge.probe_port)


def _first_verdict(condition: Condition, remembered: bool | None, now: float) -> Verdict:
    """What holds until probes have spoken: the verdict from before a restart, else what the condition suggests."""
    if remembered is not None:
        return Verdict(remembered, Rule.REMEMBERED, "as before the restart; not probed so far", now)
    good = condition in (Condition.READY, Condition.UNKNOWN)
    return Verdict(good, Rule.ASSUMED, f"not probed so far; the control plane finds the node {condition.value}", now)
