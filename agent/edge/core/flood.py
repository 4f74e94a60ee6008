"""How much work without use a client may ask for: resets, pings, settings, empty frames (CVE-2019-9512 and its kin,
CVE-2023-44487)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST: Final = 200.0
REFILL_PER_S: Final = 20.0


@dataclass(slots=True)
class FloodGuard:
    """A bucket of credit; useful requests fill it again. Times are monotonic seconds."""

    credit: float = BURST
    filled_at: float = 0.0

    def spend(self, now: float) -> bool:
        """Takes note of one useless thing; False when it was one too many."""
        if self.filled_at:
            self.credit = min(BURST, self.credit + max(0.0, now - self.filled_at) * REFILL_PER_S)
        self.filled_at = now
        self.credit -= 1.0
        return self.credit >= 0.0

    def earn(self) -> None:
        """A request was answered to its end."""
        self.credit = min(BURST, self.credit + 1.0)
