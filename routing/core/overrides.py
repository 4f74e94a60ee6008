"""What operators order, laid over what the evidence says: in, out, or out for a share of the clients.

An order holds until its time is over, also when nobody can take it back. One that would leave nothing to answer is not
obeyed: steering names every candidate then.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from routing.core.model import EdgeEndpoint, Family, OverrideMode, Region, TargetKey


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders that hold at one moment, by node."""

    ins: frozenset[str] = frozenset()
    outs: frozenset[str] = frozenset()
    drains: tuple[tuple[str, int], ...] = ()

    def rotation(self, evident: AbstractSet[TargetKey], regions: Mapping[str, Region]) -> frozenset[TargetKey]:
        """What answers may name, but for drains."""
        forced = {
            (edge.node, family)
            for region in regions.values()
            for edge in region.edges
            if edge.node in self.ins
            for family in Family
            if edge.addresses(family)
        }
        return frozenset(key for key in evident | forced if key[0] not in self.outs)

    def drained(self, slot: int, slots: int) -> frozenset[str]:
        """The nodes that clients of a slot are sent away from; a slot stays on the same side while a share grows."""
        return frozenset(node for node, percent in self.drains if slot * 100 < percent * slots)


def with_returning(orders: Orders, returning: Mapping[str, int]) -> Orders:
    """The same, with so many of a hundred clients kept away from edges that have come back a moment ago, unless an
    order is about them."""
    shares = dict(returning) | dict(orders.drains)
    for node in orders.ins | orders.outs:
        shares.pop(node, None)
    return Orders(orders.ins, orders.outs, tuple(sorted(shares.items())))


def orders_at(regions: Mapping[str, Region], now_s: float) -> Orders:
    """The orders that hold at `now_s`, seconds since 1970."""
    by_mode: dict[OverrideMode, list[EdgeEndpoint]] = {mode: [] for mode in OverrideMode}
    for region in regions.values():
        for edge in region.edges:
            if edge.override is not None and now_s < edge.override.expire_at:
                by_mode[edge.override.mode].append(edge)
    shares = ((e.node, e.override.share_at(now_s)) for e in by_mode[OverrideMode.DRAIN] if e.override is not None)
    drains = sorted((node, share) for node, share in shares if share)
    return Orders(
        frozenset(edge.node for edge in by_mode[OverrideMode.IN]),
        frozenset(edge.node for edge in by_mode[OverrideMode.OUT]),
        tuple(drains),
    )
