"""What nodes hold of every app, kept up to date while a plan is made, at the same cost whatever the fleet's size."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from control_plane.core.model import Demand, NodeView

_MIB = 1 << 20


class Ledger:
    """Replicas, processors, memory and host ports that are taken on each node."""

    def __init__(self, counts: Mapping[str, int] | None = None):
        self.counts: Counter[str] = Counter(counts or {})
        """Replicas by node."""
        self._cpu_millis: Counter[str] = Counter()
        self._memory_bytes: Counter[str] = Counter()
        self._ports: dict[str, Counter[int]] = defaultdict(Counter)
        self._apps: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, node: str, app: str, demand: Demand, *, counts: bool = True) -> None:
        """A replica is there; one that stops takes room and does not count."""
        self._enter(node, app, demand, 1, counts)

    def remove(self, node: str, app: str, demand: Demand) -> None:
        """A replica that counted is gone."""
        self._enter(node, app, demand, -1, True)

    def _enter(self, node: str, app: str, demand: Demand, sign: int, counts: bool) -> None:
        if counts:
            self.counts[node] += sign
            self._apps[node][app] += sign
        self._cpu_millis[node] += sign * demand.cpu_millis
        self._memory_bytes[node] += sign * demand.memory_bytes
        for port in demand.host_ports:
            self._ports[node][port] += sign

    def holds(self, node: str, app: str) -> bool:
        """Whether a replica of an app counts on a node."""
        return node in self._apps and self._apps[node][app] > 0

    def lack(self, node: NodeView, demand: Demand) -> str:
        """What a node lacks for one more replica; empty when it has all."""
        if node.cpu_millis and self._cpu_millis[node.id] + demand.cpu_millis > node.cpu_millis and demand.cpu_millis:
            return f"has less than {demand.cpu_millis} thousandths of a processor left"
        taken = self._memory_bytes[node.id]
        if node.memory_bytes and demand.memory_bytes and taken + demand.memory_bytes > node.memory_bytes:
            return f"has less than {demand.memory_bytes / _MIB:g} MiB of memory left"
        if demand.host_ports and node.id in self._ports:
            busy = sorted(port for port in demand.host_ports if self._ports[node.id][port] > 0)
            if busy:
                return f"has host port {busy[0]} taken"
        return ""
