"""When a program that ended is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.backoff import Backoff

BACKOFF: Final = Backoff(base_s=0.5, cap_s=10.0)

# A program that ran for so long was in order: its next end counts as the first.
STABLE_AFTER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RestartState:
    """How often a program ended, in all and in a row without ever having run for long."""

    restarts: int = 0
    quick_ends: int = 0

    def ended(self, ran_s: float) -> tuple[RestartState, float]:
        """The state after the program ended having run for `ran_s`, and the delay in seconds before its next start."""
        streak = 0 if ran_s >= STABLE_AFTER_S else self.quick_ends
        return RestartState(self.restarts + 1, streak + 1), BACKOFF.ceiling_s(streak)
