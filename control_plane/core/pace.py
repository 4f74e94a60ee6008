"""How often nodes beat: seldom enough that all of them together are no burden, often enough for what runs on each.

A connection that breaks, a replica that fails and everything else that happens on a node is told at once; a heartbeat
says no more than that nothing did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_STEP: Final = 1.25
"""The intervals of a growing fleet are so far apart that nodes are not told a new one with each node that joins."""
_BEATS_IN_PATIENCE: Final = 3.0
"""So many heartbeats go into the time after which silence costs something."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The least interval, in seconds, and how many heartbeats a second a fleet may send in all."""

    base_s: float
    beats_per_s: float

    def of_fleet(self, nodes: int) -> float:
        """Seconds between heartbeats that a fleet of so many nodes can afford."""
        interval_s = self.base_s
        while nodes > self.beats_per_s * interval_s:
            interval_s *= _STEP
        return interval_s

    def of_node(self, of_fleet_s: float, patience_s: float) -> float:
        """Seconds between the heartbeats of a node of which silence for `patience_s` costs something: its replicas go
        elsewhere, or have to stop."""
        return max(self.base_s, min(of_fleet_s, patience_s / _BEATS_IN_PATIENCE))

    def stretch(self, interval_s: float) -> float:
        """By what to multiply a time that is meant for nodes that beat at the least interval."""
        return max(1.0, interval_s / self.base_s)
