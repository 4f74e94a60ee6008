"""Exponential back-off with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base_s` to `cap_s`."""

    base_s: float
    cap_s: float

    def ceiling_s(self, attempt: int) -> float:
        """The longest delay before the try number `attempt`, counted from 0."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt, 60))

    def delay_s(self, attempt: int, randomness: float) -> float:
        """Full jitter: `randomness`, from 0 to 1, spreads the delay evenly up to the ceiling."""
        return self.ceiling_s(attempt) * randomness
