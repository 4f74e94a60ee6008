"""An app's next steps: which replicas to start, stop, displace or keep, from the app as it is.

Bounds: replicas that are wanted exceed the slots by at most the surge, and a step never takes the number of slots that
serve below the wanted number less `max_unavailable`. A replica that is not healthy by its node's last word may always
be stopped; one that only cannot be seen, because its node is suspect, may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from control_plane.core.manifest import Placement
from control_plane.core.model import (
    Condition,
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
from control_plane.core.placement import Load, choose
from control_plane.core.rollout import TERMINAL, AppView, Rollout, holds, open_slots

_SURGE_UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """Where an app is to be: its release, the rollout that is under way, where its replicas may run."""

    release: ReleaseRef
    rollout: Rollout | None
    placement: Placement
    load: dict[str, int]
    """Replicas of every app by node."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps, and why some replicas cannot be placed."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]


def converge(view: AppView, target: Target, now: float) -> Plan:
    """The steps to take now. Without a node to lose and without change there are none."""
    return _Planner(view, target, now).plan()


class _Planner:
    """One look at one app: collects steps, and keeps its own picture of what they will have done."""

    def __init__(self, view: AppView, target: Target, now: float):
        self.view = view
        self.now = now
        self.target = target
        active = target.rollout is not None and target.rollout.state not in TERMINAL
        self.rollout = target.rollout if active else None
        self.heading = self.rollout.heading if self.rollout else target.release
        self.replicas = list(view.replicas)
        self.steps: list[Step] = []
        self.problems: list[str] = []
        self.nodes = [view.nodes[node] for node in sorted(view.nodes)]
        self.load = Counter(target.load)

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
        return Plan(tuple(self.steps), tuple(self.problems))

    # -- the picture

    def _view(self) -> AppView:
        return replace(self.view, replicas=tuple(self.replicas))

    def _all(self) -> frozenset[int]:
        return frozenset(slot.ordinal for slot in self.view.slots)

    def _of(self, slot: Slot) -> list[Replica]:
        return [r for r in self.replicas if not r.stopping and not r.displaced and holds(slot, r)]

    def _is_lost(self, replica: Replica) -> bool:
        node = self.view.nodes.get(replica.node)
        return node is None or node.silent_s >= self.target.placement.lost_after_s

    def _occupied(self, slot: Slot) -> bool:
        """Whether a container of the slot may still run somewhere in reach."""
        return any(holds(slot, r) and not r.displaced and not (r.stopping and self._is_lost(r)) for r in self.replicas)

    def _serving_slots(self) -> int:
        return sum(1 for slot in self.view.slots if any(self.view.serves(r) for r in self._of(slot)))

    def _least_serving(self) -> int:
        return len(self.view.slots) - self.view.policy.max_unavailable

    def _stop(self, replica: Replica, reason: str) -> None:
        self.steps.append(StopReplica(replica, reason))
        self.replicas[self.replicas.index(replica)] = replace(replica, stopping=True)

    # -- lost nodes

    def _rejoin(self) -> None:
        """A displaced replica whose node is back: it or its replacement goes, as the app has declared."""
        for original in [r for r in self.replicas if r.displaced and not r.stopping]:
            slot = next((s for s in self.view.slots if holds(s, original)), None)
            others = [] if slot is None else self._of(slot)
            back = self.view.node_is_ready(original)
            if slot is None or (self.target.placement.singleton and others):
                if back:
                    self._stop(original, "another replica has taken its place")
            elif others:
                if back:
                    self._choose_between(original, others)
            elif not self._is_lost(original):
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
        self.replicas[self.replicas.index(replica)] = replace(replica, displaced=False)

    def _replace_lost(self) -> None:
        """Slots all of whose replicas are on lost nodes get another one, when there is a node for it."""
        for slot in self.view.slots:
            held = self._of(slot)
            if slot.node or not held or not all(self._is_lost(r) for r in held):
                continue
            lost = max(held, key=lambda r: (r.spec_hash == self.heading.spec_hash, r.release))
            release = ReleaseRef(lost.release, lost.spec_hash)
            choice = choose(slot, self.target.placement, self.nodes, self._load(release), avoid=lost.node)
            if not choice.node:
                self.problems.append(f"replica {slot.ordinal} was on node {lost.node}, which is lost; {choice.problem}")
                continue
            for replica in held:
                self.steps.append(DisplaceReplica(replica, f"node {replica.node} is lost"))
                self.replicas[self.replicas.index(replica)] = replace(replica, displaced=True)
            self._assign(slot, release, choice.node, f"node {lost.node} is lost")

    # -- nodes that drain

    def _leave_draining(self) -> None:
        """Replicas leave nodes that drain: each stops once another counts in its place, or when the time is over."""
        for slot in self.view.slots:
            held = self._of(slot)
            leaving = [r for r in held if self._is_draining(r)]
            staying = [r for r in held if r not in leaving]
            served = any(self.view.counts(r, self.now) for r in staying)
            for replica in leaving:
                if served:
                    self._stop(replica, f"node {replica.node} drains, and another serves in its place")
                elif self.now >= self.view.nodes[replica.node].drain_until:
                    self._stop(replica, f"node {replica.node} drains, and the time for it is over")
                elif self.target.placement.singleton and not staying and self._has_room(slot, replica):
                    self._stop(replica, f"node {replica.node} drains, and a singleton never runs twice")
            if leaving and not staying and not self.target.placement.singleton:
                self._replace_leaving(slot, max(leaving, key=lambda r: r.release))

    def _is_draining(self, replica: Replica) -> bool:
        node = self.view.nodes.get(replica.node)
        return node is not None and node.condition is Condition.DRAINING

    def _has_room(self, slot: Slot, leaving: Replica) -> bool:
        """Whether another node could take the slot; when none can, it stays where it is for as long as it may."""
        choice = choose(slot, self.target.placement, self.nodes, self._load(self.target.release))
        if not choice.node:
            self.problems.append(f"replica {slot.ordinal} is on node {leaving.node}, which drains; {choice.problem}")
        return bool(choice.node)

    def _replace_leaving(self, slot: Slot, leaving: Replica) -> None:
        release = ReleaseRef(leaving.release, leaving.spec_hash)
        choice = choose(slot, self.target.placement, self.nodes, self._load(release))
        if choice.node:
            self._assign(slot, release, choice.node, f"node {leaving.node} drains")
        else:
            self.problems.append(f"replica {slot.ordinal} is on node {leaving.node}, which drains; {choice.problem}")

    # -- slots

    def _stop_surplus(self) -> None:
        """Replicas that fill no slot go, those that serve only once the slots serve."""
        for replica in sorted(self.replicas, key=lambda r: -r.ordinal):
            if replica.stopping or replica.displaced or any(holds(slot, replica) for slot in self.view.slots):
                continue
            enough = self._serving_slots() >= self._least_serving()
            if enough or not replica.ready or self._is_lost(replica):
                self._stop(replica, "it is no longer wanted")

    def _finish_slots(self) -> None:
        """Where the new replica counts, the others go; on the way back, what does not serve goes at once."""
        for slot in self.view.slots:
            fresh = [r for r in self._of(slot) if r.spec_hash == self.heading.spec_hash]
            old = [r for r in self._of(slot) if r.spec_hash != self.heading.spec_hash]
            good = [r for r in fresh if self.view.counts(r, self.now)]
            for replica in old:
                if good:
                    self._stop(replica, f"release {self.heading.number} serves in its place")
                elif not replica.ready and self._is_in_the_way(replica, len(fresh) + len(old)):
                    self._stop(replica, f"release {self.heading.number} takes its place")
            for replica in fresh:
                if len(good) > 1 and replica is not good[0]:
                    self._stop(replica, "another replica serves in its place")

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
        for slot in sorted(pending, key=lambda s: (any(self.view.serves(r) for r in self._of(s)), s.ordinal)):
            if self._surge_left(slot.region) > 0:
                self._start(slot, self.heading, f"release {self.heading.number} takes over")
            elif self._surge_max() == 0:
                self._make_room(slot)

    def _needs_exchange(self, slot: Slot) -> bool:
        held = self._of(slot)
        return bool(held) and all(r.spec_hash != self.heading.spec_hash for r in held)

    def _surge_max(self) -> int:
        policy = self.view.policy
        if self.view.singleton:
            return 0
        if self._goes_back():
            return _SURGE_UNBOUNDED
        return policy.max_surge or (0 if policy.max_unavailable else 1)

    def _surge_left(self, region: str) -> int:
        """Replicas that may still be started above the wanted number: in all, or by default in each region."""
        per_region = not self.view.policy.max_surge
        slots = [s for s in self.view.slots if not per_region or s.region == region]
        used = sum(max(0, len(self._of(slot)) - 1) for slot in slots)
        return self._surge_max() - used

    def _make_room(self, slot: Slot) -> None:
        held = self._of(slot)
        if any(r.ready for r in held):
            # What was healthy when its node was heard last may still serve: it is not stopped unseen.
            serves = any(self.view.serves(r) for r in held)
            if not serves or self._serving_slots() - 1 < self._least_serving():
                return
        for replica in held:
            self._stop(replica, f"it makes room for release {self.heading.number}")

    # -- nodes

    def _load(self, release: ReleaseRef) -> Load:
        same = Counter(r.node for r in self.replicas if r.spec_hash == release.spec_hash and not r.stopping)
        return Load(same, self.load)

    def _start(self, slot: Slot, release: ReleaseRef, reason: str) -> None:
        before = next(iter(sorted(self._predecessors(slot), key=lambda r: -r.release)), None)
        prefer = before.node if before else ""
        choice = choose(slot, self.target.placement, self.nodes, self._load(release), prefer=prefer)
        if choice.node:
            self._assign(slot, release, choice.node, reason)
        else:
            self.problems.append(f"replica {slot.ordinal}: {choice.problem}")

    def _predecessors(self, slot: Slot) -> Iterator[Replica]:
        return (r for r in self.replicas if r.ordinal == slot.ordinal and r.region == slot.region and not r.displaced)

    def _assign(self, slot: Slot, release: ReleaseRef, node: str, reason: str) -> None:
        taken = {(r.ordinal, r.release, r.node) for r in self.replicas}
        if (slot.ordinal, release.number, node) in taken:
            # The same replica is still stopping there: it starts anew once it is gone.
            return
        self.steps.append(StartReplica(slot.ordinal, release, slot.region, node, reason))
        self.replicas.append(
            Replica(slot.ordinal, release.number, release.spec_hash, slot.region, node, self.now, since=self.now)
        )
        self.load[node] += 1


def free_of(nodes: Sequence[NodeView]) -> list[NodeView]:
    """The nodes as they are while the brake holds: nobody counts as silent, so that nothing moves."""
    return [replace(n, silent_s=0.0) for n in nodes]


def is_gone(node: NodeView | None) -> bool:
    """Whether a node will never report again, so that its replicas are gone with it."""
    return node is None or node.condition is Condition.REVOKED
