"""What is to be heard of each node how often, from what runs on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from control_plane.core.pace import Pace
from control_plane.state import State
from control_plane.views import Manifests
from fleet.ids import last_part
from locci.v1 import node_pb2

_Mark = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a node may be silent, in seconds, before replicas on it are replaced, and before it costs anything."""

    lost_after_s: float
    least_s: float


class Pacing:
    """Intervals of heartbeats and limits of silence; made anew only when apps or their replicas change."""

    def __init__(self, state: State, manifests: Manifests, pace: Pace, lost_after_s: float):
        """`lost_after_s` is for nodes without replicas."""
        self._state = state
        self._manifests = manifests
        self.pace = pace
        self.idle: Final = Patience(lost_after_s, lost_after_s)
        self._mark: _Mark | None = None
        self._patience: dict[str, Patience] = {}

    def patience(self, node_id: str) -> Patience:
        """By the apps that have replicas on the node."""
        mark = (self._state.assignments.changes, self._state.apps.changes)
        if mark != self._mark:
            self._mark, self._patience = mark, self._of_all()
        return self._patience.get(node_id, self.idle)

    def interval_s(self, node_id: str, role: int) -> float:
        """Seconds between the heartbeats of a node's program. What DNS servers find out travels with theirs, so that
        they keep the least."""
        of_fleet_s = self.pace.of_fleet(len(self._state.nodes))
        if role != node_pb2.NODE_ROLE_EDGE or of_fleet_s <= self.pace.base_s:
            return self.pace.base_s
        return self.pace.of_node(of_fleet_s, self.patience(node_id).least_s)

    def _of_all(self) -> dict[str, Patience]:
        result: dict[str, Patience] = {}
        for row in self._state.assignments.values():
            app = self._state.apps.get(f"apps/{row.app}")
            release = self._state.releases.get(app.target_release) if app else None
            if release is not None:
                placement = self._manifests.of(release).placement
                lost_after_s, node_id = placement.lost_after_s, last_part(row.node)
                least_s = min(lost_after_s, placement.fence_after_s or lost_after_s)
                known = result.get(node_id)
                if known is None or lost_after_s < known.lost_after_s or least_s < known.least_s:
                    others = known or Patience(lost_after_s, least_s)
                    lost_after_s, least_s = min(lost_after_s, others.lost_after_s), min(least_s, others.least_s)
                    result[node_id] = Patience(lost_after_s, least_s)
        return result
