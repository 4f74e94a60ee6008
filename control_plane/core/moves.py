"""Balance on request: which replicas would be placed better elsewhere in their region.

A move helps when its replica costs less where it goes, by the same reckoning by which it would be placed, or as much
on a node with fewer replicas. Each such move makes the fleet better by that measure, so that moves come to an end.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from control_plane.core.choosing import REPLICA_COST, Chooser
from control_plane.core.model import LeaveReplica, NodeView, Replica
from control_plane.core.rollout import AppView


@dataclass(frozen=True, slots=True)
class Move:
    """A replica that would be better placed on another node."""

    replica: Replica
    to: str
    reason: str


def best_move(replicas: Sequence[Replica], chooser: Chooser, view: AppView) -> Move | None:
    """The move that helps most; None when no move helps."""
    best: dict[str, list[NodeView]] = {}
    found = []
    for replica in _movable(replicas, view):
        if replica.region not in best:
            ranked = ((chooser.rank(node), node.id, node) for node in chooser.candidates(replica.region))
            best[replica.region] = [node for _, _, node in heapq.nsmallest(2, ranked)]
        to = next((node for node in best[replica.region] if node.id != replica.node), None)
        move = None if to is None else _move(replica, to, chooser, view)
        if move is not None:
            found.append(move)
    return min(found, key=lambda entry: entry[0])[1] if found else None


def first_moves(replicas: Sequence[Replica], chooser: Chooser, view: AppView, most: int) -> list[LeaveReplica]:
    """What is to leave now. One look begins one move: where the next one goes depends on where this one has gone."""
    move = None if view.singleton or most <= 0 else best_move(replicas, chooser, view)
    return [] if move is None else [LeaveReplica(move.replica, move.reason)]


def _movable(replicas: Sequence[Replica], view: AppView) -> Iterator[Replica]:
    """Replicas that serve alone in their slot: whatever else is going on is finished first. One for each node and
    release is enough to find the best move, for all of them would gain the same."""
    in_slot = Counter(replica.ordinal for replica in replicas)
    seen: set[tuple[str, int]] = set()
    for replica in replicas:
        key = (replica.node, replica.release)
        if key not in seen and in_slot[replica.ordinal] == 1 and view.serves(replica) and not replica.leaving:
            seen.add(key)
            yield replica


def _move(
    replica: Replica, to: NodeView, chooser: Chooser, view: AppView
) -> tuple[tuple[int, int, int, str], Move] | None:
    """A move with its order among others; None when it does not help."""
    here = view.nodes.get(replica.node)
    if here is None:
        return None
    now, then = chooser.rank_without(here), chooser.rank(to)
    if then >= now:
        return None
    gain = (now[0] - then[0], now[1] - then[1])
    what = "holds more replicas of it" if gain[0] >= REPLICA_COST else "suits it less" if gain[0] else "is fuller"
    move = Move(replica, to.id, f"node {here.id} {what} than node {to.id}")
    return (-gain[0], -gain[1], replica.ordinal, replica.node), move
