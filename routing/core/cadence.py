"""When to probe a target next, given what its probes found: calm once a second, dense as soon as an answer is late."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from routing.core.evidence import Probed

_STEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Cadence:
    """Times in seconds. `cut_proven_s` holds where probes are answered within `late_s`: 2.15 s by default."""

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
        return self.cut_proven_within_s(())

    def cut_proven_within_s(self, found: Iterable[Probed]) -> float:
        """The same for the slowest of these targets, by how long their answers take now, in steps of 50 ms. For one
        that fails already it is not asked."""
        worst_s = max((self._to_silence_s(p) for p in found if p.proven and not p.suspect), default=0.0)
        least_s = self.late_s + self.timeout_s
        proven_s = self.interval_s + max(least_s, worst_s) + (self.burst - 2) * self.dense_s
        return round(math.ceil(round(proven_s / _STEP_S, 6)) * _STEP_S, 6)

    def _to_silence_s(self, probed: Probed) -> float:
        """From a probe that stays without an answer to the second, and from the last of a burst to its end."""
        return self._patience_s(probed) + self.probe_timeout_s(probed)

    def _patience_s(self, probed: Probed) -> float:
        return min(self.interval_s, max(self.late_s, probed.round_trip_s + 2 * probed.variance_s))

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
            return self._patience_s(probed)
        if probed.attempts < self.burst:
            return self.dense_s
        return self.active_s if probed.attempts < 2 * self.burst else self.interval_s
