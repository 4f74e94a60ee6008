"""Which node a slot gets. One chooser serves one release of one app for one plan: it looks at each node once, and after
that a choice costs in proportion to the logarithm of the nodes.

A node's cost is 100 for each replica of the release on it, 100 for each in its domain when the app is spread over a
label, less the weights of the affinities that it matches. The least cost wins, then the node that is preferred, then
the one with the fewest replicas of any app, then the first by its id.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Affinity, Placement
from control_plane.core.model import NOTHING, Demand, NodeView, Slot
from control_plane.core.placement import label_values, refusal

REPLICA_COST: Final = 100

_Key = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Choice:
    """The node that a slot gets, or why it gets none."""

    node: str
    problem: str = ""


class Chooser:
    """Chooses nodes for replicas of one release. Whoever places or takes away one says so."""

    def __init__(
        self,
        placement: Placement,
        nodes: Iterable[NodeView],
        ledger: Ledger,
        same: Mapping[str, int],
        demand: Demand = NOTHING,
    ):
        """`same` are the replicas of the release by node."""
        self._placement = placement
        self._ledger = ledger
        self._demand = demand
        self._nodes = {node.id: node for node in nodes}
        self._by_region: dict[str, list[NodeView]] = defaultdict(list)
        for node in self._nodes.values():
            self._by_region[node.region].append(node)
        self._same = Counter(same)
        self._in_domain: Counter[tuple[str, str]] = Counter()
        if placement.spread:
            for name, count in same.items():
                if name in self._nodes:
                    self._in_domain[self._domain(self._nodes[name])] += count
        self._heaps: dict[str, dict[str, list[_Key]]] = {}
        """By region, then by domain: nodes that can take a replica, the cheapest first; some keys are out of date."""

    def choose(self, slot: Slot, prefer: str = "", avoid: str = "", because: str = "was lost with it") -> Choice:
        """The node for a slot, never `avoid`. Without one, the choice says which reason removed how many nodes."""
        node = self._choose(slot, prefer, avoid)
        return Choice(node) if node else Choice("", self._why(slot, avoid, because))

    def _choose(self, slot: Slot, prefer: str, avoid: str) -> str:
        if slot.node:
            node = self._nodes.get(slot.node)
            fits = node is not None and node.id != avoid and self._may_take(node)
            return slot.node if fits else ""
        best = self._cheapest(slot.region, avoid)
        liked = self._nodes.get(prefer)
        if best is None or liked is None or liked.region != slot.region or liked.id == avoid:
            return "" if best is None else best[2]
        return liked.id if self.cost(liked) == best[0] and self._may_take(liked) else best[2]

    def cost(self, node: NodeView) -> int:
        """What one more replica on a node costs."""
        spread = self._in_domain[self._domain(node)] if self._placement.spread else 0
        return REPLICA_COST * spread + self._own_cost(node)

    def rank(self, node: NodeView) -> tuple[int, int]:
        """What one more replica on a node costs, and how many are there."""
        return self.cost(node), self._ledger.counts[node.id]

    def rank_without(self, node: NodeView) -> tuple[int, int]:
        """The rank of a node for a replica that it holds, as if that was not there."""
        twice = 2 if self._placement.spread else 1
        return self.cost(node) - twice * REPLICA_COST, self._ledger.counts[node.id] - 1

    def candidates(self, region: str) -> Iterator[NodeView]:
        """Nodes of a region that can take one more replica."""
        return (node for node in self._by_region.get(region, ()) if self._may_take(node))

    def placed(self, node: str) -> None:
        """A replica of the release was placed; the ledger knows it already."""
        self._count(node, 1)

    def removed(self, node: str) -> None:
        """A replica of the release is gone or stops; the ledger knows it already."""
        self._count(node, -1)

    def touched(self, node: str) -> None:
        """The ledger of a node changed for another release."""
        self._count(node, 0)

    def _count(self, node_id: str, change: int) -> None:
        self._same[node_id] += change
        node = self._nodes.get(node_id)
        if node is None:
            return
        domain = self._domain(node)
        self._in_domain[domain] += change
        heaps = self._heaps.get(node.region)
        if heaps is not None and not refusal(node, self._placement.constraints):
            heapq.heappush(heaps.setdefault(domain[1], []), self._key(node))

    # -- costs

    def _domain(self, node: NodeView) -> tuple[str, str]:
        spread = self._placement.spread
        return node.region, node.labels.get(spread, "") if spread else ""

    def _own_cost(self, node: NodeView) -> int:
        drawn = sum(a.weight for a in self._placement.affinities if self._matches(a, node))
        return REPLICA_COST * self._same[node.id] - drawn

    def _matches(self, affinity: Affinity, node: NodeView) -> bool:
        if affinity.app:
            return self._ledger.holds(node.id, affinity.app)
        values = label_values(node, affinity.label)
        return bool(values & set(affinity.values)) if affinity.values else bool(values)

    def _key(self, node: NodeView) -> _Key:
        return self._own_cost(node), self._ledger.counts[node.id], node.id

    # -- who can

    def _may_take(self, node: NodeView) -> bool:
        return not refusal(node, self._placement.constraints) and not self._ledger.lack(node, self._demand)

    def _cheapest(self, region: str, avoid: str) -> _Key | None:
        """Total cost, replicas and id of the cheapest node of a region."""
        tops = []
        for domain, heap in self._heaps_of(region).items():
            top = self._top(heap, avoid)
            if top is not None:
                spread = self._in_domain[region, domain] if self._placement.spread else 0
                tops.append((top[0] + REPLICA_COST * spread, top[1], top[2]))
        return min(tops, default=None)

    def _top(self, heap: list[_Key], avoid: str) -> _Key | None:
        """The first key that still holds. One that is out of date is dropped, for whatever changed its node has pushed
        another; so is a node that is full, until it is counted anew."""
        aside: _Key | None = None
        found: _Key | None = None
        while heap:
            key = heap[0]
            node = self._nodes[key[2]]
            if key != self._key(node) or self._ledger.lack(node, self._demand):
                heapq.heappop(heap)
            elif node.id == avoid:
                aside = heapq.heappop(heap)
            else:
                found = key
                break
        if aside is not None:
            heapq.heappush(heap, aside)
        return found

    def _heaps_of(self, region: str) -> dict[str, list[_Key]]:
        if region not in self._heaps:
            heaps: dict[str, list[_Key]] = defaultdict(list)
            for node in self._by_region.get(region, ()):
                if self._may_take(node):
                    heaps[self._domain(node)[1]].append(self._key(node))
            for heap in heaps.values():
                heapq.heapify(heap)
            self._heaps[region] = heaps
        return self._heaps[region]

    # -- why not

    def _why(self, slot: Slot, avoid: str, because: str) -> str:
        inside = [n for n in self._by_region.get(slot.region, ()) if slot.node in ("", n.id)]
        if not inside:
            return f"region {slot.region} has no node with the role edge"
        obstacles = Counter(because if node.id == avoid else self._obstacle(node) for node in inside)
        counted = "; ".join(f"{count} {reason}" for reason, count in sorted(obstacles.items()))
        return f"none of the {len(inside)} nodes in region {slot.region} can take it: {counted}"

    def _obstacle(self, node: NodeView) -> str:
        return refusal(node, self._placement.constraints) or self._ledger.lack(node, self._demand)
