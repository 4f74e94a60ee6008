"""What a change of the fleet comes to: the steps of `converge`, taken in thought until none is left.

In thought everything that starts becomes healthy, and everything that stops is gone at once. Bounds of surge and time
do not matter then, only the end that they lead to.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from control_plane.core.choosing import Chooser
from control_plane.core.converge import Target, converge
from control_plane.core.model import (
    DisplaceReplica,
    KeepReplica,
    LeaveReplica,
    Replica,
    Slot,
    StartReplica,
    Step,
    StopReplica,
)
from control_plane.core.moves import best_move
from control_plane.core.preview import Change
from control_plane.core.rollout import AppView

ROUNDS_MAX: Final = 40
"""A drain needs four; what has not settled by then is shown as it is."""
MOVES_MAX: Final = 100
"""So many moves of a rebalance are foreseen."""

Wanted: TypeAlias = Callable[[Sequence[Replica]], tuple[Slot, ...]]
_Key = tuple[int, int, str]


@dataclass(slots=True)
class Outlook:
    """An app when it has come to rest: its replicas, which slots found no node, and why each step was taken."""

    release: int
    replicas: tuple[Replica, ...]
    unplaced: Mapping[int, str]
    reasons: dict[_Key, str] = field(default_factory=dict)

    def by_ordinal(self) -> Mapping[int, set[tuple[int, str]]]:
        """Release and node of every replica that counts."""
        found: dict[int, set[tuple[int, str]]] = defaultdict(set)
        for replica in self.replicas:
            if not replica.displaced:
                found[replica.ordinal].add((replica.release, replica.node))
        return found


def settle(view: AppView, wanted: Wanted, target: Target, now: float) -> Outlook:
    """The app at rest. `wanted` says which slots it has when it holds certain replicas. Enters steps in the ledger."""
    # What stops already is as good as gone; the ledger counts the room that it takes.
    view = replace(view, replicas=tuple(r for r in view.replicas if not r.stopping))
    outlook = Outlook(target.release.number, view.replicas, {})
    for _ in range(ROUNDS_MAX):
        view = replace(view, slots=wanted(view.replicas))
        plan = converge(view, target, now)
        outlook.unplaced = plan.unplaced
        if not plan.steps:
            break
        for step in plan.steps:
            outlook.reasons[_key(step)] = step.reason
        view = replace(view, replicas=tuple(_after(view, plan.steps, target, now)))
        now += view.policy.healthy_for_s + 1.0
    outlook.replicas = view.replicas
    return outlook


def _key(step: Step) -> _Key:
    if isinstance(step, StartReplica):
        return step.ordinal, step.release.number, step.node
    return step.replica.ordinal, step.replica.release, step.replica.node


def _after(view: AppView, steps: Sequence[Step], target: Target, now: float) -> Iterator[Replica]:
    replicas = {(r.ordinal, r.release, r.node): r for r in view.replicas}
    for step in steps:
        key = _key(step)
        match step:
            case StartReplica():
                name, hashed, node = step.release.number, step.release.spec_hash, step.node
                replicas[key] = Replica(step.ordinal, name, hashed, step.region, node, now, ready=True, since=now)
            case StopReplica():
                del replicas[key]
                target.ledger.remove(step.replica.node, view.name, target.demand)
            case DisplaceReplica():
                replicas[key] = replace(replicas[key], displaced=True)
            case LeaveReplica():
                replicas[key] = replace(replicas[key], leaving=True)
            case KeepReplica():
                replicas[key] = replace(replicas[key], displaced=False, leaving=False)
    yield from replicas.values()


def differences(without: Outlook, with_change: Outlook) -> Iterator[Change]:
    """What a change makes of an app, compared with what would become of it anyway."""
    before, after = without.by_ordinal(), with_change.by_ordinal()
    for ordinal in sorted({*before, *after}):
        gone = sorted(before.get(ordinal, set()) - after.get(ordinal, set()))
        for release, node in sorted(after.get(ordinal, set()) - before.get(ordinal, set())):
            reason = with_change.reasons.get((ordinal, release, node), "it is wanted")
            if gone:
                yield Change("move", ordinal, release, node, reason, gone.pop(0)[1])
            else:
                yield Change("start", ordinal, release, node, reason)
        for release, node in gone:
            reason = with_change.reasons.get((ordinal, release, node), f"node {node} is no longer there")
            yield Change("stop", ordinal, release, node, reason)
    for ordinal, problem in sorted(with_change.unplaced.items()):
        if without.unplaced.get(ordinal) != problem:
            yield Change("unplaceable", ordinal, with_change.release, "", problem)


def balance(view: AppView, target: Target) -> list[Change]:
    """The moves of a rebalance, as many as are foreseen; the first of them is the one that it begins with."""
    same = Counter(r.node for r in view.replicas if r.spec_hash == target.release.spec_hash and not r.stopping)
    nodes = (view.nodes[node] for node in sorted(view.nodes))
    chooser = Chooser(target.placement, nodes, target.ledger, same, target.demand)
    replicas = [r for slot in view.slots if not slot.node for r in view.of(slot)]
    found: dict[int, Change] = {}
    for _ in range(0 if view.singleton else MOVES_MAX):
        move = best_move(replicas, chooser, view)
        if move is None:
            break
        moved = move.replica
        target.ledger.remove(moved.node, view.name, target.demand)
        chooser.removed(moved.node)
        target.ledger.add(move.to, view.name, target.demand)
        chooser.placed(move.to)
        replicas[replicas.index(moved)] = replace(moved, node=move.to)
        before = found.pop(moved.ordinal, None)
        origin = before.origin if before else moved.node
        if origin != move.to:
            found[moved.ordinal] = Change("move", moved.ordinal, moved.release, move.to, move.reason, origin)
    return list(found.values())
