"""Where replicas go: which slots an app wants, and which nodes may hold them.

Deterministic, and moves as little as possible: a slot keeps its ordinal, its region and its node as long as they are
allowed; ties are broken by the node's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from control_plane.core.manifest import Constraint, Kind, Placement
from control_plane.core.model import Condition, NodeView, Replica, Slot


def refusal(node: NodeView, constraints: Sequence[Constraint]) -> str:
    """Why a node cannot hold replicas that demand `constraints`; empty when it can."""
    if node.condition is not Condition.READY:
        return f"is {node.condition.value}"
    if node.cordoned:
        return "is cordoned"
    return mismatch(node, constraints)


def mismatch(node: NodeView, constraints: Sequence[Constraint]) -> str:
    """Which constraint a node does not fulfil; empty when it fulfils all."""
    for constraint in constraints:
        values = label_values(node, constraint.label)
        holds = bool(values & set(constraint.values)) if constraint.values else bool(values)
        if holds == constraint.exclude:
            wanted = "|".join(constraint.values) or "set"
            return f"does not match {constraint.label}{'!=' if constraint.exclude else '='}{wanted}"
    return ""


def label_values(node: NodeView, label: str) -> set[str]:
    """What a node has for a label; `region`, `architecture`, `node` and `jurisdiction` are known without one."""
    known: dict[str, set[str]] = {
        "region": {node.region},
        "architecture": {node.architecture} - {""},
        "node": {node.id},
        "jurisdiction": set(node.jurisdictions),
    }
    if label in known:
        return known[label]
    return {node.labels[label]} if label in node.labels else set()


def wanted_slots(
    placement: Placement, kind: Kind, regions: Iterable[str], nodes: Sequence[NodeView], replicas: Sequence[Replica]
) -> tuple[Slot, ...]:
    """The slots of an app, by ordinal. Ordinals that live replicas hold keep their region, and a daemon's its node."""
    allowed = sorted(placement.regions or regions)
    held = [r for r in sorted(replicas, key=lambda r: (r.ordinal, r.displaced, r.stopping)) if not r.stopping]
    if kind == "daemon":
        return _daemon_slots(placement, set(allowed), nodes, held)
    if placement.total:
        counts = _spread(placement, allowed, nodes, held)
    else:
        counts = dict.fromkeys(allowed, placement.per_region)
    return _slots(counts, held)


def _spread(
    placement: Placement, allowed: Sequence[str], nodes: Sequence[NodeView], held: Sequence[Replica]
) -> dict[str, int]:
    """So many replicas for each region that has a node for them; the remainder stays where replicas are already."""
    usable = sorted({n.region for n in nodes if n.region in allowed and _may_hold(n, placement)}) or list(allowed)
    if not usable:
        return {}
    base, extra = divmod(placement.total, len(usable))
    current = Counter(r.region for r in held if not r.displaced)
    first = sorted(usable, key=lambda region: (-current[region], region))[:extra]
    return {region: base + (region in first) for region in usable}


def _may_hold(node: NodeView, placement: Placement) -> bool:
    """Whether a node can hold a replica, or holds it only as long as its silence is short."""
    if node.condition in (Condition.REVOKED, Condition.JOINING) or mismatch(node, placement.constraints):
        return False
    return node.silent_s < placement.lost_after_s and not node.cordoned


def _slots(counts: Mapping[str, int], held: Sequence[Replica]) -> tuple[Slot, ...]:
    left = dict(counts)
    slots: dict[int, Slot] = {}
    for replica in held:
        if replica.ordinal not in slots and left.get(replica.region, 0) > 0:
            slots[replica.ordinal] = Slot(replica.ordinal, replica.region)
            left[replica.region] -= 1
    ordinal = 0
    for region in sorted(left):
        for _ in range(left[region]):
            while ordinal in slots:
                ordinal += 1
            slots[ordinal] = Slot(ordinal, region)
    return tuple(slots[ordinal] for ordinal in sorted(slots))


def _daemon_slots(
    placement: Placement, allowed: set[str], nodes: Sequence[NodeView], held: Sequence[Replica]
) -> tuple[Slot, ...]:
    gone = (Condition.REVOKED, Condition.JOINING, Condition.DRAINING)
    matching = {
        n.id: n
        for n in nodes
        if n.region in allowed and n.condition not in gone and not mismatch(n, placement.constraints)
    }
    slots: dict[int, Slot] = {}
    served: set[str] = set()
    for replica in held:
        if replica.ordinal not in slots and replica.node in matching and replica.node not in served:
            slots[replica.ordinal] = Slot(replica.ordinal, replica.region, replica.node)
            served.add(replica.node)
    ordinal = 0
    for node in sorted(matching.values(), key=lambda n: (n.region, n.id)):
        if node.id in served or node.cordoned:
            continue
        while ordinal in slots:
            ordinal += 1
        slots[ordinal] = Slot(ordinal, node.region, node.id)
    return tuple(slots[ordinal] for ordinal in sorted(slots))
