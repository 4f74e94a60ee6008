"""The first tier of the cache: a byte budget in RAM, with S3-FIFO so that a scan does not wash out what is used.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: a small queue that new
entries enter, a main queue for those that were asked for again, and a ghost queue of the keys that left the small one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FREQUENCY_MAX: Final = 3
SMALL_SHARE: Final = 0.1
GHOSTS_MIN: Final = 64
LARGEST_SHARE: Final = 0.625


class Node(Generic[T]):
    """A value in the store."""

    __slots__ = ("cost", "frequency", "in_main", "key", "live", "value")

    def __init__(self, key: bytes, value: T, cost: int):
        self.key = key
        self.value = value
        self.cost = cost
        self.frequency = 0
        self.in_main = False
        self.live = True


class MemoryStore(Generic[T]):
    """Holds values of a known cost within `budget_bytes`. One above five eighths of the budget is not taken."""

    __slots__ = (
        "_ghosts",
        "_main",
        "_nodes",
        "_small",
        "_small_bytes",
        "budget_bytes",
        "evicted",
        "largest_bytes",
        "used_bytes",
    )

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self.largest_bytes = int(budget_bytes * LARGEST_SHARE)
        """A value that costs more is not taken."""
        self.used_bytes = 0
        self.evicted = 0
        self._nodes: dict[bytes, Node[T]] = {}
        self._small: deque[Node[T]] = deque()
        self._main: deque[Node[T]] = deque()
        self._small_bytes = 0
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        # By hash: keys may be long, and a ghost that is taken for another only stays a little longer.

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, key: bytes) -> T | None:
        """The value, which counts as asked for."""
        node = self._nodes.get(key)
        if node is None:
            return None
        if node.frequency < FREQUENCY_MAX:
            node.frequency += 1
        return node.value

    def put(self, key: bytes, value: T, cost: int) -> bool:
        """Stores or replaces; False when it is too large to be taken, and what was there is then gone."""
        cost += len(key)
        before = self._nodes.get(key)
        if cost > self.largest_bytes:
            self.remove(key)
            return False
        if before is not None:
            self._account(before, cost - before.cost)
            before.value, before.cost = value, cost
        else:
            node = Node(key, value, cost)
            self._nodes[key] = node
            node.in_main = self._ghosts.pop(hash(key), self) is None
            self.used_bytes += cost
            if node.in_main:
                self._main.append(node)
            else:
                self._small.append(node)
                self._small_bytes += cost
        if self.used_bytes > self.budget_bytes:
            self._evict()
        return True

    def remove(self, key: bytes) -> bool:
        """Forgets the value; False when there was none."""
        node = self._nodes.pop(key, None)
        if node is None:
            return False
        self._account(node, -node.cost)
        queue = self._main if node.in_main else self._small
        node.live = False
        if len(queue) > 2 * len(self._nodes) + 64:  # dead nodes hold values: sweep before they are many
            self._sweep()
        del node.value
        return True

    def clear(self) -> None:
        """Forgets everything."""
        self._nodes.clear()
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self.used_bytes = self._small_bytes = 0

    def _account(self, node: Node[T], change: int) -> None:
        self.used_bytes += change
        if not node.in_main:
            self._small_bytes += change

    def _sweep(self) -> None:
        self._small = deque(node for node in self._small if node.live)
        self._main = deque(node for node in self._main if node.live)

    def _evict(self) -> None:
        """Until all is within the budget. Written in one, since a full store does this with every value that comes."""
        small, main, nodes, ghosts = self._small, self._main, self._nodes, self._ghosts
        small_max = self.budget_bytes * SMALL_SHARE
        while self.used_bytes > self.budget_bytes and (small or main):
            from_small = bool(small) and (self._small_bytes > small_max or not main)
            node = small.popleft() if from_small else main.popleft()
            if not node.live:
                continue
            if node.frequency > 0:
                main.append(node)
                if from_small:
                    self._small_bytes -= node.cost
                    node.in_main, node.frequency = True, 0
                else:
                    node.frequency -= 1
                continue
            del nodes[node.key]
            node.live = False
            self.used_bytes -= node.cost
            self.evicted += 1
            if from_small:
                self._small_bytes -= node.cost
                ghosts[hash(node.key)] = None
                while len(ghosts) > GHOSTS_MIN and len(ghosts) > len(nodes):
                    ghosts.popitem(last=False)
