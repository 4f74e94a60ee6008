"""How many requests may be tried again: a part of all, so that retries never make an overload worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.2
PER_S: Final = 10.0
MOST: Final = 1000.0
"""Saved up by quiet times: what is in progress at an app that dies may be that much, and all of it is tried again."""


@dataclass(slots=True)
class RetryBudget:
    """Each request puts a fifth of a retry in, each second ten more. Times are monotonic seconds."""

    _left: float = MOST
    _since: float = 0.0

    def earn(self) -> None:
        """A request begins."""
        self._left = min(MOST, self._left + SHARE)

    def spend(self, now: float) -> bool:
        """Whether a request may be tried again now; it counts then."""
        self._left = min(MOST, self._left + max(0.0, now - self._since) * PER_S)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
