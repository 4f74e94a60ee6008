"""When to probe a target next, given what its probes found: calm once a second, dense as soon as an answer is late."""

from __future__ import annotations

from dataclasses import dataclass

from routing.core.evidence import Probed


@dataclass(frozen=True, slots=True)
class Cadence:
    """Times in seconds. `cut_proven_s` holds with a short round trip: 2.15 s by default."""

    interval_s: float = 1.0
    timeout_s: float = 0.5
    timeout_max_s: float = 2.0
    late_s: float = 0.15
    dense_s: float = 0.05
    active_s: float = 0.25
    rising_s: float = 0.25
    burst: int = 12

    @property
    def cut_proven_s(self) -> float:
        """The worst case from a cut link to its proof."""
        return self.interval_s + self.late_s + (self.burst - 2) * self.dense_s + self.timeout_s

    def probe_timeout_s(self, probed: Probed) -> float:
        """After so long without an answer a probe counts as failed; it is listened to until `timeout_max_s` still."""
        return probed.timeout_s(self.timeout_s, self.timeout_max_s)

    def due_at(self, probed: Probed, in_rotation: bool, alarm_at: float) -> float:
        """When the next probe is due. `alarm_at` is when another target began to fail: then all are looked at."""
        due = probed.launched_at + self._pause_s(probed, in_rotation)
        if probed.launched_at + self.late_s < alarm_at:
            return min(due, alarm_at)
        return due

    def _pause_s(self, probed: Probed, in_rotation: bool) -> float:
        if not probed.attempts:
            return self.interval_s if in_rotation or not probed.successes else self.rising_s
        if not in_rotation and probed.healthy_since is None and probed.proven:
            return self.interval_s
        if probed.active:
            return self.active_s
        if probed.attempts == 1:
            late_s = probed.round_trip_s + 2 * probed.variance_s
            return min(self.interval_s, max(self.late_s, late_s))
        if probed.attempts < self.burst:
            return self.dense_s
        return self.active_s if probed.attempts < 2 * self.burst else self.interval_s
