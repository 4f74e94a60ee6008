"""Rollouts: the state machine that takes an app from one release to another, each wait with a deadline.

`advance` decides where a rollout stands; `control_plane.core.converge` takes the steps. Both look at the replicas as
they are and keep no script, so that a restart in the middle changes nothing but the clock of the deadlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from control_plane.core.manifest import RolloutPolicy
from control_plane.core.model import NodeView, ReleaseRef, Replica, Slot


class State(Enum):
    """Where a rollout stands."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED, State.ABORTED})


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout in progress. `steps_taken` is the highest mark of progress; it only rises. `promoted`: those that wait
    for the canary follow. Health deadlines do not run before `resumed_at`."""

    state: State
    source: ReleaseRef | None
    target: ReleaseRef
    progress_at: float
    steps_taken: int = 0
    automatic: bool = False
    reason: str = ""
    updated: int = 0
    healthy: int = 0
    promoted: bool = False
    resumed_at: float = 0.0
    side_by_side: bool = False
    """Blue/green: both releases run beside each other, and requests go to one of them."""
    prefetched: bool = True
    """Whether every node that is to get a replica has the image, or is not waited for."""
    switched_at: float = 0.0
    """When requests went over to the target; 0 while they go to the source."""

    @property
    def holds_both(self) -> bool:
        """Whether every slot is to have a replica of both releases."""
        return self.side_by_side and self.source is not None and self.state in (State.RUNNING, State.PAUSED)

    @property
    def routed(self) -> ReleaseRef | None:
        """The only release that requests go to; None when they go to any."""
        if not self.side_by_side or self.state in TERMINAL:
            return None
        return self.target if self.switched_at and self.state is not State.ROLLING_BACK else self.source

    @property
    def heading(self) -> ReleaseRef:
        """The release that it brings now: the source once it goes back."""
        return self.source if self.state is State.ROLLING_BACK and self.source else self.target

    @property
    def short_way(self) -> bool:
        """Whether it goes without waves and without bound of surge: back to an older release."""
        return self.state is State.ROLLING_BACK or (self.source is not None and self.target.number < self.source.number)


@dataclass(frozen=True, slots=True)
class AppView:
    """An app at one moment: what is wanted, what there is, and on which nodes."""

    name: str
    policy: RolloutPolicy
    slots: tuple[Slot, ...]
    replicas: tuple[Replica, ...]
    nodes: Mapping[str, NodeView]
    problems: tuple[str, ...] = ()
    singleton: bool = False
    unfetched: tuple[tuple[str, str], ...] = ()
    """Nodes in order that are to hold the image of the rollout's target and do not so far, each with the reason."""
    _by_ordinal: Mapping[int, list[Replica]] = field(init=False, repr=False, compare=False)
    _slot_by_ordinal: Mapping[int, Slot] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_ordinal: dict[int, list[Replica]] = {}
        for replica in self.replicas:
            by_ordinal.setdefault(replica.ordinal, []).append(replica)
        object.__setattr__(self, "_by_ordinal", by_ordinal)
        object.__setattr__(self, "_slot_by_ordinal", {slot.ordinal: slot for slot in self.slots})

    def slot_of(self, replica: Replica) -> Slot | None:
        """The slot that a replica fills; None when it fills none."""
        slot = self._slot_by_ordinal.get(replica.ordinal)
        return slot if slot is not None and holds(slot, replica) else None

    def node_is_ready(self, replica: Replica) -> bool:
        """Whether the replica's node is in order and has spoken to this process."""
        node = self.nodes.get(replica.node)
        return replica.confirmed and node is not None and node.is_in_order

    def serves(self, replica: Replica) -> bool:
        """Whether the replica is healthy on a node in order."""
        return replica.ready and self.node_is_ready(replica)

    def counts(self, replica: Replica, now: float) -> bool:
        """Whether the replica has been healthy for long enough to count."""
        return self.serves(replica) and now - replica.since >= self.policy.healthy_for_s

    def of(self, slot: Slot) -> list[Replica]:
        """The slot's wanted replicas; neither those that stop nor those that were displaced."""
        held = self._by_ordinal.get(slot.ordinal, ())
        return [r for r in held if not r.stopping and not r.displaced and holds(slot, r)]


def holds(slot: Slot, replica: Replica) -> bool:
    """Whether a replica fills a slot."""
    return replica.ordinal == slot.ordinal and replica.region == slot.region and slot.node in ("", replica.node)


def waves(policy: RolloutPolicy, slots: Sequence[Slot]) -> list[tuple[frozenset[str], float]]:
    """Regions and bake time of each wave; regions that no wave names come last."""
    named = {region for wave in policy.waves for region in wave.regions}
    rest = frozenset(slot.region for slot in slots) - named
    result = [(frozenset(wave.regions), wave.bake_s) for wave in policy.waves]
    return [*result, (rest, 0.0)] if rest or not result else result


def open_slots(view: AppView, rollout: Rollout, now: float) -> frozenset[int]:
    """Ordinals whose wave has come: every wave before is complete and has been watched for its bake time."""
    if rollout.short_way:
        return frozenset(slot.ordinal for slot in view.slots)
    if rollout.state is State.PAUSED or not rollout.prefetched:
        return frozenset()
    first = canary_slots(view, rollout)
    if first:
        return first
    result: set[int] = set()
    for regions, bake_s in waves(view.policy, view.slots):
        wave = [slot for slot in view.slots if slot.region in regions]
        result.update(slot.ordinal for slot in wave)
        done_at = [_done_at(view, slot, rollout.heading, now) for slot in wave]
        if any(at is None or now < at + bake_s for at in done_at):
            break
    return frozenset(result)


def canary_slots(view: AppView, rollout: Rollout) -> frozenset[int]:
    """Ordinals that get the release before all others, in the order of the waves; none when the others follow."""
    if view.policy.strategy != "canary" or rollout.source is None or rollout.short_way or rollout.promoted:
        return frozenset()
    policy = view.policy
    ordered = [s for regions, _ in waves(policy, view.slots) for s in view.slots if s.region in regions]
    inside = [s for s in ordered if s.region in policy.canary_regions] if policy.canary_regions else ordered
    count = policy.canary_replicas or -(-len(inside) * policy.canary_percent // 100) or len(inside)
    # Without a replica in its regions a canary is the first one elsewhere: there is always one.
    return frozenset(s.ordinal for s in inside[:count] or ordered[:1])


def _canary_since(view: AppView, rollout: Rollout, first: frozenset[int], now: float) -> float | None:
    """Since when every canary is brought over and counts; None while one does not."""
    done = [_done_at(view, slot, rollout.target, now) for slot in view.slots if slot.ordinal in first]
    return None if not done or any(at is None for at in done) else max(at for at in done if at is not None)


def _watch_canary(rollout: Rollout, view: AppView, now: float) -> Rollout:
    """Promotes the rollout when its canary has been good for long enough, or says what it waits for."""
    first = canary_slots(view, rollout)
    if not first:
        return rollout
    since = _canary_since(view, rollout, first, now)
    if since is None:
        return replace(rollout, reason="")
    if view.policy.manual_promotion:
        return replace(rollout, reason=f"{len(first)} canary replicas are healthy: promote the rollout, or abort it")
    if now < since + view.policy.canary_bake_s:
        return replace(rollout, reason=f"{len(first)} canary replicas are watched for {view.policy.canary_bake_s:g} s")
    return replace(rollout, promoted=True, progress_at=now, reason="")


def _watch_prefetch(rollout: Rollout, view: AppView, now: float) -> Rollout:
    """Waits until all that are to have the image have it; nothing is exchanged before, so that going back is free."""
    if not view.unfetched:
        return replace(rollout, prefetched=True, progress_at=now, reason="")
    node, why = view.unfetched[0]
    if now - rollout.progress_at > view.policy.prefetch_deadline_s:
        others = f" and {len(view.unfetched) - 1} others" if len(view.unfetched) > 1 else ""
        within = f"within {view.policy.prefetch_deadline_s:g} s"
        reason = f"node {node}{others} did not have the image {within}, and nothing was exchanged: {why}"
        return turn_back(replace(rollout, prefetched=True), reason, now, automatic=True)
    names = ", ".join(sorted(name for name, _ in view.unfetched)[:5])
    return replace(rollout, reason=f"{len(view.unfetched)} nodes pull the image first: {names}")


def _all_beside(rollout: Rollout, view: AppView, now: float) -> bool:
    """Whether every slot has a replica of the target that counts, whatever else it has."""
    target = rollout.target.spec_hash
    fresh = ([r for r in view.of(slot) if r.spec_hash == target] for slot in view.slots)
    return bool(view.slots) and all(any(view.counts(r, now) for r in held) for held in fresh)


def _watch_switch(rollout: Rollout, view: AppView, now: float) -> Rollout:
    """Sends requests over to the target when all of it is healthy, or says what it waits for."""
    source = rollout.source
    assert source is not None, "without a source there is nothing to run beside"
    new, old = f"release {rollout.target.number}", f"release {source.number}"
    if rollout.switched_at:
        return replace(rollout, reason=f"requests go to {new}; {old} is held for {view.policy.hold_s:g} s")
    if not _all_beside(rollout, view, now):
        return replace(rollout, reason=f"{new} starts beside {old}, which gets all requests")
    if view.policy.manual_promotion and not rollout.promoted:
        why = f"all {len(view.slots)} replicas of {new} are healthy beside {old}, which gets all requests"
        return replace(rollout, reason=f"{why}: promote the rollout, or abort it")
    return replace(rollout, switched_at=now, progress_at=now, reason=f"requests go to {new}")


def _done_at(view: AppView, slot: Slot, target: ReleaseRef, now: float) -> float | None:
    """When the slot was brought over to `target`; None while it is not."""
    replicas = view.of(slot)
    good = [r for r in replicas if r.spec_hash == target.spec_hash and view.counts(r, now)]
    if not good or any(r.spec_hash != target.spec_hash for r in replicas):
        return None
    return min(max(r.since, r.assigned_at) for r in good) + view.policy.healthy_for_s


def advance(rollout: Rollout, view: AppView, now: float) -> Rollout:
    """The rollout after a look at the app; equal to `rollout` when nothing changed. A terminal one never changes."""
    if rollout.state in TERMINAL or rollout.state is State.PAUSED:
        return rollout
    if rollout.state is State.PENDING:
        rollout = replace(rollout, state=State.RUNNING, progress_at=now)
    if rollout.state is State.RUNNING and not rollout.prefetched:
        rollout = _watch_prefetch(rollout, view, now)
        if not rollout.prefetched or rollout.state is not State.RUNNING:
            return rollout
    rollout = _measure(rollout, view, now)
    if _is_complete(rollout, view, now):
        return _completed(rollout)
    if rollout.state is State.RUNNING:
        rollout = (_watch_switch if rollout.holds_both else _watch_canary)(rollout, view, now)
        failure = _failing_replica(view, rollout, now)
        if failure:
            return turn_back(rollout, failure, now, automatic=True, allowed=_may_turn(rollout, view))
    first = canary_slots(view, rollout)
    ready = rollout.holds_both and not rollout.switched_at and _all_beside(rollout, view, now)
    if ready or (first and _canary_since(view, rollout, first, now) is not None):
        return _waited(rollout, view.policy, now)
    if now - rollout.progress_at > view.policy.progress_deadline_s + _bake_s(rollout, view.policy, first):
        return _timed_out(rollout, view, now)
    return rollout


def _may_turn(rollout: Rollout, view: AppView) -> bool:
    """Whether it goes back by itself. Before requests went over that only takes away what never served."""
    return view.policy.auto_rollback or (rollout.holds_both and not rollout.switched_at)


def _waited(rollout: Rollout, policy: RolloutPolicy, now: float) -> Rollout:
    """A healthy canary that waits for someone stands still by intent. The mark moves now and then, so that a moment of
    bad health after a long wait has time to heal; not with each look, since each move is a write."""
    if policy.manual_promotion and now - rollout.progress_at > policy.progress_deadline_s / 2:
        return replace(rollout, progress_at=now)
    return rollout


def _bake_s(rollout: Rollout, policy: RolloutPolicy, canary: frozenset[int]) -> float:
    """For how long the policy itself makes a rollout stand still: bounded, so that one that is stuck still ends."""
    if rollout.short_way:
        return 0.0
    canary_s = policy.canary_bake_s if canary else 0.0
    canary_s += policy.hold_s if rollout.switched_at else 0.0
    return canary_s + max((wave.bake_s for wave in policy.waves), default=0.0)


def _measure(rollout: Rollout, view: AppView, now: float) -> Rollout:
    target = rollout.heading.spec_hash
    fresh = [[r for r in view.of(slot) if r.spec_hash == target] for slot in view.slots]
    updated = sum(1 for replicas in fresh if replicas)
    healthy = sum(1 for replicas in fresh if any(view.counts(r, now) for r in replicas))
    done = sum(1 for slot in view.slots if _done_at(view, slot, rollout.heading, now) is not None)
    steps = updated + healthy + done
    if steps > rollout.steps_taken:
        rollout = replace(rollout, steps_taken=steps, progress_at=now)
    return replace(rollout, updated=updated, healthy=healthy)


def _is_complete(rollout: Rollout, view: AppView, now: float) -> bool:
    if not view.slots or canary_slots(view, rollout):
        return False
    if rollout.holds_both:
        # What is old stops afterwards: from then on nothing leads back to it.
        held = bool(rollout.switched_at) and now >= rollout.switched_at + view.policy.hold_s
        return held and rollout.state is State.RUNNING and _all_beside(rollout, view, now)
    extra = [r for r in view.replicas if not r.stopping and not r.displaced]
    if any(view.slot_of(r) is None for r in extra):
        return False
    done = [_done_at(view, slot, rollout.heading, now) for slot in view.slots]
    if any(at is None for at in done):
        return False
    if rollout.short_way:
        return True
    bakes = {region: bake_s for regions, bake_s in waves(view.policy, view.slots) for region in regions}
    return all(
        at is not None and now >= at + bakes.get(slot.region, 0.0) for at, slot in zip(done, view.slots, strict=True)
    )


def _completed(rollout: Rollout) -> Rollout:
    count = f"all {rollout.updated} replicas are healthy on release"
    if rollout.state is State.RUNNING:
        return replace(rollout, state=State.SUCCEEDED, reason=f"{count} {rollout.target.number}")
    state = State.ROLLED_BACK if rollout.automatic else State.ABORTED
    return replace(rollout, state=state, reason=f"{rollout.reason}; {count} {rollout.heading.number} again")


def _failing_replica(view: AppView, rollout: Rollout, now: float) -> str:
    """Why the first replica that missed its health deadline did; empty when none did. A node's fault does not count."""
    deadline_s = view.policy.health_deadline_s
    for replica in sorted(view.replicas, key=lambda r: (r.ordinal, r.node)):
        if replica.stopping or replica.displaced or replica.spec_hash != rollout.target.spec_hash or replica.ready:
            continue
        if not view.node_is_ready(replica):
            continue
        since = max(replica.since, replica.assigned_at, view.nodes[replica.node].since, rollout.resumed_at)
        if now - since > deadline_s:
            return _sentence(view, replica, deadline_s)
    return ""


def _sentence(view: AppView, replica: Replica, deadline_s: float) -> str:
    name = f"replica {replica.ordinal}-{replica.release} on node {replica.node}"
    why = f": {replica.reason}" if replica.reason else ""
    tail = f"\nlast lines of its log:\n{replica.log_tail.rstrip()}" if replica.log_tail else ""
    return f"{name} was not healthy within {deadline_s:g} s{why}{tail}"


def turn_back(rollout: Rollout, reason: str, now: float, *, automatic: bool, allowed: bool = True) -> Rollout:
    """The rollout on its way back to where it came from; ended when there is no way back."""
    source = rollout.source
    if rollout.state is State.ROLLING_BACK:
        return rollout
    if source is None or not allowed or source.spec_hash == rollout.target.spec_hash:
        stay = "there is no earlier good release to go back to" if source is None else "it stays where it is"
        state = State.FAILED if automatic else State.ABORTED
        return replace(rollout, state=state, automatic=False, reason=f"{reason}; {stay}")
    return replace(
        rollout, state=State.ROLLING_BACK, automatic=automatic, reason=reason, progress_at=now, steps_taken=0
    )


def _timed_out(rollout: Rollout, view: AppView, now: float) -> Rollout:
    what = f"no step forward within {view.policy.progress_deadline_s:g} s"
    waiting = "; ".join(view.problems) or _waiting_for(view, rollout)
    reason = f"{what}: {waiting}" if waiting else what
    if rollout.state is State.ROLLING_BACK:
        return replace(rollout, state=State.FAILED, reason=f"{rollout.reason}; going back failed too: {reason}")
    return turn_back(rollout, reason, now, automatic=True, allowed=_may_turn(rollout, view))


def _waiting_for(view: AppView, rollout: Rollout) -> str:
    if not view.slots:
        return "no replica is wanted anywhere: no region or no node matches the placement"
    target = rollout.heading.spec_hash
    for slot in view.slots:
        for replica in view.of(slot):
            if replica.spec_hash == target and not view.serves(replica):
                why = replica.reason or ("its node is not in order" if not view.node_is_ready(replica) else "not ready")
                return f"waiting for replica {replica.ordinal}-{replica.release} on node {replica.node}: {why}"
    return ""
