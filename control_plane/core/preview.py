"""What applying a release would do in the end, whatever the order that a rollout's bounds impose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from control_plane.core.choosing import Chooser
from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Placement
from control_plane.core.model import Demand, ReleaseRef, Replica, Slot
from control_plane.core.rollout import AppView


@dataclass(frozen=True, slots=True)
class Change:
    """One replica that starts, stops, is replaced, moves or finds no node."""

    action: Literal["start", "stop", "replace", "unplaceable", "move"]
    ordinal: int
    release: int
    node: str
    reason: str
    origin: str = ""
    """With move: the node that it leaves."""


def preview(
    view: AppView, release: ReleaseRef, placement: Placement, ledger: Ledger, demand: Demand
) -> Iterator[Change]:
    """The changes that bring the app to `release`: by slot, then what is no longer wanted. Enters them in `ledger`."""
    same = Counter(r.node for r in view.replicas if r.spec_hash == release.spec_hash and not r.stopping)
    chooser = Chooser(placement, (view.nodes[node] for node in sorted(view.nodes)), ledger, same, demand)
    for slot in view.slots:
        held = view.of(slot)
        if any(r.spec_hash == release.spec_hash for r in held):
            continue
        prefer = held[0].node if held else ""
        choice = chooser.choose(slot, prefer=prefer)
        if choice.node:
            ledger.add(choice.node, view.name, demand)
            chooser.placed(choice.node)
        yield _change(slot, held, release.number, choice.node, choice.problem)
    for replica in sorted(view.replicas, key=lambda r: (r.ordinal, r.node)):
        if not replica.stopping and not replica.displaced and view.slot_of(replica) is None:
            yield Change("stop", replica.ordinal, replica.release, replica.node, "it is no longer wanted")


def _change(slot: Slot, held: list[Replica], release: int, node: str, problem: str) -> Change:
    if not node:
        return Change("unplaceable", slot.ordinal, release, "", problem)
    if held:
        before = held[0]
        reason = f"in the place of release {before.release} on node {before.node}"
        return Change("replace", slot.ordinal, release, node, reason)
    return Change("start", slot.ordinal, release, node, f"wanted in region {slot.region}")
