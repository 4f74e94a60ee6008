"""What synthetic clients of a drill saw: requests, those that failed or were slow, and the longest time without one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

SLOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts since the clients began. Moments are on a monotonic clock, in seconds."""

    requests: int = 0
    failed: int = 0
    slow: int = 0
    gap_s: float = 0.0
    """The longest time from a good answer to the next one, when a request failed in between."""
    last_failure: str = ""
    good_at: float | None = None
    broken: bool = False

    def with_answer(self, began_at: float, ended_at: float, failure: str) -> Tally:
        """With one more request; `failure` is empty for one that was answered."""
        slow = self.slow + (ended_at - began_at > SLOW_S)
        counted = replace(self, requests=self.requests + 1, slow=slow)
        if failure:
            gap_s = max(self.gap_s, ended_at - self.good_at) if self.good_at is not None else self.gap_s
            return replace(counted, failed=self.failed + 1, last_failure=failure, gap_s=gap_s, broken=True)
        gap_s = ended_at - self.good_at if self.broken and self.good_at is not None else 0.0
        return replace(counted, gap_s=max(self.gap_s, gap_s), good_at=ended_at, broken=False)
