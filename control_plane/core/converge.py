"""An app's next steps: which replicas to start, stop, displace or keep, from the app as it is.

Bounds: replicas that are wanted exceed the slots by at most the surge, and a step never takes the number of slots that
serve below the wanted number less `max_unavailable`. A replica that is not healthy by its node's last word may always
be stopped; one that only cannot be seen, because its node is suspect, may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from control_plane.core.choosing import Chooser
from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Placement
from control_plane.core.model import (
    NOTHING,
    Condition,
    Demand,
    DisplaceReplica,
    KeepReplica,
    NodeView,
    ReleaseRef,
    Replica,
    Slot,
    StartReplica,
    Step,
    StopReplica,
)
from control_plane.core.moves import first_moves
from control_plane.core.rollout import TERMINAL, AppView, Rollout, holds, open_slots

_SURGE_UNBOUNDED = 1 << 30

_Key = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an app is to be: its release, the rollout that is under way, where its replicas may run."""

    release: ReleaseRef
    rollout: Rollout | None
    placement: Placement
    ledger: Ledger
    """What nodes hold of every app. The plan enters what it starts and stops."""
    demand: Demand = NOTHING
    rebalance_moves: int = 0
    """So many replicas may move at a time for balance; 0 means that none does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps, and why some replicas cannot be placed."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    balanced: bool = field(default=True, compare=False)
    """Whether no replica moves for balance and none should."""
    unplaced: Mapping[int, str] = field(default_factory=dict, compare=False)
    """The same problems by ordinal."""


def converge(view: AppView, target: Target, now: float) -> Plan:
    """The steps to take now. Without a node to lose and without change there are none."""
    if is_at_rest(view, target, now):
        return Plan((), ())
    return _Planner(view, target, now).plan()


def is_at_rest(view: AppView, target: Target, now: float) -> bool:
    """Whether nothing is to be done, as seen at a glance: each slot has one replica, on a node that keeps it.

    Most apps are, in every look; the planner would come to the same.
    """
    under_way = target.rollout is not None and target.rollout.state not in TERMINAL
    if under_way or target.rebalance_moves or len(view.replicas) != len(view.slots):
        return False
    lost_after_s = target.placement.lost_after_s
    ordinals = set()
    for replica in view.replicas:
        node = view.nodes.get(replica.node)
        if node is None or node.condition is Condition.DRAINING or node.silent_s >= lost_after_s:
            return False
        if replica.stopping or replica.displaced or replica.leaving or view.slot_of(replica) is None:
            return False
        ordinals.add(replica.ordinal)
    return len(ordinals) == len(view.slots)


class _Planner:
    """One look at one app: collects steps, and keeps its own picture of what they will have done."""

    def __init__(self, view: AppView, target: Target, now: float):
        self.view = view
        self.now = now
        self.target = target
        active = target.rollout is not None and target.rollout.state not in TERMINAL
        self.rollout = target.rollout if active else None
        self.beside = self.rollout.source if self.rollout is not None and self.rollout.holds_both else None
        """The release that is kept whole beside the one that comes; None when slots are exchanged one by one."""
        self.heading = self.rollout.heading if self.rollout else target.release
        self.replicas: dict[int, dict[_Key, Replica]] = {}
        """By ordinal, as they will be after the steps."""
        for replica in view.replicas:
            self.replicas.setdefault(replica.ordinal, {})[_key(replica)] = replica
        self.steps: list[Step] = []
        self.problems: dict[int, str] = {}
        self.nodes = [view.nodes[node] for node in sorted(view.nodes)]
        self.ledger = target.ledger
        self.choosers: dict[str, Chooser] = {}

    def plan(self) -> Plan:
        self._rejoin()
        self._replace_lost()
        self._leave_draining()
        self._stop_surplus()
        self._finish_slots()
        opened = open_slots(self._view(), self.rollout, self.now) if self.rollout else self._all()
        self._start_empty(opened)
        if self.rollout is not None:
            self._exchange(opened)
        balanced = self._balance()
        return Plan(tuple(self.steps), tuple(self.problems.values()), balanced, self.problems)

    # -- the picture

    def _every(self) -> list[Replica]:
        return [replica for held in self.replicas.values() for replica in held.values()]

    def _view(self) -> AppView:
        return replace(self.view, replicas=tuple(self._every()))

    def _all(self) -> frozenset[int]:
        return frozenset(slot.ordinal for slot in self.view.slots)

    def _of(self, slot: Slot) -> list[Replica]:
        held = self.replicas.get(slot.ordinal, {}).values()
        return [r for r in held if not r.stopping and not r.displaced and holds(slot, r)]

    def _layers(self, slot: Slot) -> list[list[Replica]]:
        """What a slot holds, by release where two are kept beside each other: each has to be there on its own."""
        held = self._of(slot)
        if self.beside is None:
            return [held]
        hashes = (self.beside.spec_hash, self.heading.spec_hash)
        return [[r for r in held if r.spec_hash == spec_hash] for spec_hash in hashes]

    def _layered(self) -> list[tuple[Slot, list[Replica]]]:
        return [(slot, held) for slot in self.view.slots for held in self._layers(slot)]

    def _is_lost(self, replica: Replica) -> bool:
        node = self.view.nodes.get(replica.node)
        if self.now < replica.fence_until:
            return False
        return node is None or node.silent_s >= self.target.placement.lost_after_s

    def _occupied(self, slot: Slot) -> bool:
        """Whether a container of the slot may still run somewhere in reach."""
        held = self.replicas.get(slot.ordinal, {}).values()
        return any(holds(slot, r) and not r.displaced and not (r.stopping and self._is_lost(r)) for r in held)

    def _serving_slots(self) -> int:
        return sum(1 for slot in self.view.slots if any(self.view.serves(r) for r in self._of(slot)))

    def _least_serving(self) -> int:
        return len(self.view.slots) - self.view.policy.max_unavailable

    def _change(self, replica: Replica, **fields: Any) -> Replica:
        changed = replace(replica, **fields)
        self.replicas[replica.ordinal][_key(replica)] = changed
        return changed

    def _stop(self, replica: Replica, reason: str) -> None:
        self.steps.append(StopReplica(replica, reason))
        self._change(replica, stopping=True)
        if (chooser := self.choosers.get(replica.spec_hash)) is not None:
            chooser.removed(replica.node)

    def _cannot(self, slot: Slot, why: str) -> None:
        self.problems[slot.ordinal] = f"replica {slot.ordinal} {why}"

    # -- lost nodes

    def _rejoin(self) -> None:
        """A displaced replica whose node is back: it or its replacement goes, as the app has declared."""
        for original in [r for r in self._every() if r.displaced and not r.stopping]:
            slot = self.view.slot_of(original)
            others = [] if slot is None else self._of(slot)
            if self.beside is not None:
                others = [r for r in others if r.spec_hash == original.spec_hash]
            back = self.view.node_is_ready(original)
            if slot is None or (self.target.placement.singleton and others):
                if back:
                    self._stop(original, "another replica has taken its place")
            elif others:
                if back:
                    self._choose_between(original, others)
            elif not self._is_lost(original) and not (self.target.placement.singleton and self._occupied(slot)):
                self._keep(original, "its node is back, and it was not replaced")

    def _choose_between(self, original: Replica, others: list[Replica]) -> None:
        obsolete = all(r.spec_hash != original.spec_hash for r in others)
        choice = self.target.placement.on_rejoin
        keep_original = self.view.serves(original) and choice in ("original", "best") and not obsolete
        if keep_original:
            self._keep(original, "its node is back, and it serves")
            for replica in others:
                self._stop(replica, "the node of the original is back")
        elif self._is_overdue(original) or (obsolete and not original.ready):
            self._stop(original, "its replacement is there, and it does not serve")
        elif (choice != "original" or obsolete) and any(self.view.serves(r) for r in others):
            self._stop(original, "its replacement serves")
        elif obsolete and self.view.serves(original):
            self._keep(original, "its node is back, and it serves where a newer release does not yet")

    def _is_overdue(self, original: Replica) -> bool:
        """Whether a replica whose node is back has had its time to become healthy."""
        back_since = max(original.since, self.view.nodes[original.node].since)
        return not original.ready and self.now - back_since > self.view.policy.health_deadline_s

    def _keep(self, replica: Replica, reason: str) -> None:
        self.steps.append(KeepReplica(replica, reason))
        self._change(replica, displaced=False, leaving=False)

    def _replace_lost(self) -> None:
        """Slots all of whose replicas are on lost nodes get another one, when there is a node for it."""
        for slot, held in self._layered():
            if slot.node or not held or not all(self._is_lost(r) for r in held):
                continue
            lost = max(held, key=lambda r: (r.spec_hash == self.heading.spec_hash, r.release))
            release = ReleaseRef(lost.release, lost.spec_hash)
            choice = self._chooser(release).choose(slot, avoid=lost.node)
            if not choice.node:
                self._cannot(slot, f"was on node {lost.node}, which is lost; {choice.problem}")
                continue
            for replica in held:
                self.steps.append(DisplaceReplica(replica, f"node {replica.node} is lost"))
                self._change(replica, displaced=True)
            self._assign(slot, release, choice.node, f"node {lost.node} is lost")

    # -- nodes that drain, moves for balance

    def _leave_draining(self) -> None:
        """Replicas leave nodes that drain: each stops once another counts in its place, or when the time is over."""
        for slot, held in self._layered():
            leaving = [r for r in held if self._is_draining(r)]
            if not leaving:
                self._leave_for_balance(slot, held)
                continue
            staying = [r for r in held if r not in leaving]
            served = any(self.view.counts(r, self.now) for r in staying)
            for replica in leaving:
                if served:
                    self._stop(replica, f"node {replica.node} drains, and another serves in its place")
                elif self.now >= self.view.nodes[replica.node].drain_until:
                    self._stop(replica, f"node {replica.node} drains, and the time for it is over")
                elif self.target.placement.singleton and not staying and self._has_room(slot, replica):
                    self._stop(replica, f"node {replica.node} drains, and a singleton never runs twice")
            if not staying and not self.target.placement.singleton:
                self._replace_leaving(slot, max(leaving, key=lambda r: r.release))

    def _is_draining(self, replica: Replica) -> bool:
        node = self.view.nodes.get(replica.node)
        return node is not None and node.condition is Condition.DRAINING

    def _has_room(self, slot: Slot, leaving: Replica) -> bool:
        """Whether another node could take the slot; when none can, it stays where it is for as long as it may."""
        choice = self._chooser(self.target.release).choose(slot)
        if not choice.node:
            self._cannot(slot, f"is on node {leaving.node}, which drains; {choice.problem}")
        return bool(choice.node)

    def _replace_leaving(self, slot: Slot, leaving: Replica) -> None:
        release = ReleaseRef(leaving.release, leaving.spec_hash)
        choice = self._chooser(release).choose(slot)
        if choice.node:
            self._assign(slot, release, choice.node, f"node {leaving.node} drains")
        else:
            self._cannot(slot, f"is on node {leaving.node}, which drains; {choice.problem}")

    def _leave_for_balance(self, slot: Slot, held: list[Replica]) -> None:
        leaving = next((r for r in held if r.leaving), None)
        if leaving is None:
            return
        others = [r for r in held if r is not leaving]
        if self.rollout is not None:
            self._keep(leaving, "a rollout places replicas anew")
        elif any(self.view.counts(r, self.now) for r in others):
            self._stop(leaving, "another serves in its place, where the load is less")
        elif others and self.now - max(r.assigned_at for r in others) > self.view.policy.health_deadline_s:
            for replica in others:
                self._stop(replica, "it was not healthy in time, and the one that it was to replace stays")
            self._keep(leaving, "its replacement was not healthy in time")
        elif not others:
            release = ReleaseRef(leaving.release, leaving.spec_hash)
            choice = self._chooser(release).choose(slot, avoid=leaving.node, because="is the one that it leaves")
            if choice.node:
                self._assign(slot, release, choice.node, f"it moves away from node {leaving.node} for balance")
            else:
                self._keep(leaving, choice.problem)

    def _balance(self) -> bool:
        """Begins moves when they are asked for; whether there are none to make."""
        if not self.target.rebalance_moves:
            return True
        given_up = any(isinstance(step, KeepReplica) and step.replica.leaving for step in self.steps)
        if self.rollout is not None or self.problems or given_up:
            return False
        under_way = sum(1 for r in self._every() if r.leaving and not r.stopping)
        steps = first_moves(
            [r for slot in self.view.slots if not slot.node for r in self._of(slot)],
            self._chooser(self.target.release),
            self.view,
            self.target.rebalance_moves - under_way,
        )
        self.steps.extend(steps)
        return not steps and not under_way

    # -- slots

    def _stop_surplus(self) -> None:
        """Replicas that fill no slot go, those that serve only once the slots serve."""
        surplus = [r for r in self._every() if not r.stopping and not r.displaced and self.view.slot_of(r) is None]
        enough = bool(surplus) and self.beside is None and self._serving_slots() >= self._least_serving()
        for replica in sorted(surplus, key=lambda r: -r.ordinal):
            if enough or not replica.ready or self._is_lost(replica):
                self._stop(replica, "it is no longer wanted")

    def _finish_slots(self) -> None:
        """Where the new replica counts, the others go; on the way back, what does not serve goes at once."""
        for slot in self.view.slots:
            fresh = [r for r in self._of(slot) if r.spec_hash == self.heading.spec_hash]
            old = [r for r in self._of(slot) if r.spec_hash != self.heading.spec_hash]
            good = [r for r in fresh if self.view.counts(r, self.now)]
            if self.beside is not None:
                self._stop_neither(old, self.beside)
                old = []
            for replica in old:
                if good:
                    self._stop(replica, f"release {self.heading.number} serves in its place")
                elif not replica.ready and self._is_in_the_way(replica, len(fresh) + len(old)):
                    self._stop(replica, f"release {self.heading.number} takes its place")
            for replica in fresh:
                if len(good) > 1 and replica is not good[0]:
                    self._stop(replica, "another replica serves in its place")

    def _stop_neither(self, old: list[Replica], kept: ReleaseRef) -> None:
        """What an earlier rollout left goes, once nothing depends on it."""
        serves = any(r.spec_hash == kept.spec_hash and self.view.serves(r) for r in old)
        for replica in old:
            if replica.spec_hash != kept.spec_hash and (serves or not replica.ready):
                self._stop(replica, "it is of neither release that is kept")

    def _is_in_the_way(self, replica: Replica, in_slot: int) -> bool:
        """Whether a replica that is not ready is what an interrupted rollout left, not what there was before."""
        source = self.rollout.source if self.rollout else None
        left_over = source is None or self._goes_back() or replica.spec_hash != source.spec_hash
        return in_slot > 1 and left_over

    def _goes_back(self) -> bool:
        return self.rollout is not None and self.rollout.short_way

    def _start_empty(self, opened: frozenset[int]) -> None:
        """A slot that holds nothing gets a replica: of the new release when its wave has come, else of the old."""
        for slot in self.view.slots:
            if self._of(slot) or self._occupied(slot):
                continue
            release = self.heading
            if self.rollout is not None and slot.ordinal not in opened:
                if self.rollout.source is None:
                    continue
                release = self.rollout.source
            self._start(slot, release, "it is wanted")

    def _exchange(self, opened: frozenset[int]) -> None:
        """Begins to bring slots over: a replica above the wanted number, or one of the old away first."""
        pending = [s for s in self.view.slots if s.ordinal in opened and self._needs_exchange(s)]
        if not pending:
            return
        above = Counter(self._surge_key(s.region) for s in self.view.slots for _ in self._of(s)[1:])
        serving = self._serving_slots()
        for slot in sorted(pending, key=lambda s: (any(self.view.serves(r) for r in self._of(s)), s.ordinal)):
            if above[self._surge_key(slot.region)] < self._surge_max():
                self._start(slot, self.heading, f"release {self.heading.number} takes over")
                above[self._surge_key(slot.region)] += len(self._of(slot)) - 1
            elif self._surge_max() == 0:
                serving -= self._make_room(slot, serving)

    def _needs_exchange(self, slot: Slot) -> bool:
        held = self._of(slot)
        return bool(held) and all(r.spec_hash != self.heading.spec_hash for r in held)

    def _surge_max(self) -> int:
        policy = self.view.policy
        if self.view.singleton:
            return 0
        if self._goes_back() or self.beside is not None:
            return _SURGE_UNBOUNDED
        return policy.max_surge or (0 if policy.max_unavailable else 1)

    def _surge_key(self, region: str) -> str:
        """What a surge is bounded by: the whole app, or by default each region."""
        return region if not self.view.policy.max_surge else ""

    def _make_room(self, slot: Slot, serving: int) -> int:
        """Stops what a slot holds when the app can do without it; by how many fewer slots serve then."""
        held = self._of(slot)
        serves = any(self.view.serves(r) for r in held)
        # What was healthy when its node was heard last may still serve: it is not stopped unseen.
        if any(r.ready for r in held) and (not serves or serving - 1 < self._least_serving()):
            return 0
        for replica in held:
            self._stop(replica, f"it makes room for release {self.heading.number}")
        return int(serves)

    # -- nodes

    def _chooser(self, release: ReleaseRef) -> Chooser:
        if release.spec_hash not in self.choosers:
            same = Counter(r.node for r in self._every() if r.spec_hash == release.spec_hash and not r.stopping)
            args = (self.target.placement, self.nodes, self.ledger, same, self.target.demand)
            self.choosers[release.spec_hash] = Chooser(*args)
        return self.choosers[release.spec_hash]

    def _start(self, slot: Slot, release: ReleaseRef, reason: str) -> None:
        before = max(self._predecessors(slot), key=lambda r: r.release, default=None)
        choice = self._chooser(release).choose(slot, prefer=before.node if before else "")
        if choice.node:
            self._assign(slot, release, choice.node, reason)
        else:
            self.problems[slot.ordinal] = f"replica {slot.ordinal}: {choice.problem}"

    def _predecessors(self, slot: Slot) -> list[Replica]:
        held = self.replicas.get(slot.ordinal, {}).values()
        return [r for r in held if r.region == slot.region and not r.displaced]

    def _assign(self, slot: Slot, release: ReleaseRef, node: str, reason: str) -> None:
        region, now = slot.region, self.now
        replica = Replica(slot.ordinal, release.number, release.spec_hash, region, node, now, since=now)
        held = self.replicas.setdefault(slot.ordinal, {})
        if _key(replica) in held:
            # The same replica is still stopping there: it starts anew once it is gone.
            return
        self.steps.append(StartReplica(slot.ordinal, release, region, node, reason))
        held[_key(replica)] = replica
        self.ledger.add(node, self.view.name, self.target.demand)
        for spec_hash, chooser in self.choosers.items():
            if spec_hash == release.spec_hash:
                chooser.placed(node)
            else:
                chooser.touched(node)


def _key(replica: Replica) -> _Key:
    return replica.release, replica.node


def free_of(nodes: Sequence[NodeView]) -> list[NodeView]:
    """The nodes as they are while the brake holds: nobody counts as silent, so that nothing moves."""
    return [replace(n, silent_s=0.0) for n in nodes]


def is_gone(node: NodeView | None) -> bool:
    """Whether a node will never report again, so that its replicas are gone with it."""
    return node is None or node.condition is Condition.REVOKED
