"""Which endpoint gets a request: two random ones, the one with less to do; those that fail are left out for a while.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EJECTION_BASE_S: Final = 1.0
EJECTION_CAP_S: Final = 30.0
SERVER_ERRORS_MAX: Final = 5
TRIAL_S: Final = 5.0
"""A trial that has not ended by then is taken for lost, and another may begin."""


@dataclass(slots=True)
class Endpoint:
    """What is known of one endpoint. Times are monotonic seconds."""

    address: str
    outstanding: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    server_errors: int = 0
    trial_until: float = 0.0

    def available(self, now: float) -> bool:
        """Whether it may get requests: not ejected, or due for a trial that nobody makes yet."""
        if self.ejections == 0:
            return True
        return now >= self.ejected_until and now >= self.trial_until

    def begin(self, now: float) -> None:
        """A request goes there."""
        self.outstanding += 1
        if self.ejections and now >= self.ejected_until:
            self.trial_until = now + TRIAL_S

    def end(self) -> None:
        """The request is over."""
        self.outstanding -= 1

    def answered(self, status: int, now: float) -> None:
        """A response head came. Five 502, 503 or 504 in a row eject; anything else clears."""
        self.trial_until = 0.0
        if status not in (502, 503, 504):
            self.server_errors = self.ejections = 0
            return
        self.server_errors += 1
        if self.server_errors >= SERVER_ERRORS_MAX or self.ejections:
            self._eject(now)

    def failed(self, now: float) -> None:
        """It could not be reached, or broke off before an answer: ejected at once, so that only one request pays."""
        self._eject(now)

    def forgive(self) -> None:
        """Its failures count no more; what is in progress does."""
        self.ejections = self.server_errors = 0
        self.ejected_until = self.trial_until = 0.0

    def _eject(self, now: float) -> None:
        delay = min(EJECTION_CAP_S, EJECTION_BASE_S * 2.0 ** min(self.ejections, 10))
        self.ejections += 1
        self.server_errors = 0
        self.trial_until = 0.0
        self.ejected_until = max(self.ejected_until, now + delay)


def order(endpoints: Sequence[Endpoint], now: float, randomness: float) -> tuple[list[Endpoint], list[Endpoint]]:
    """Available ones in the order in which to try them, and ejected ones, soonest back first.

    `randomness`, from 0 to 1 exclusive, chooses the two that are compared.
    """
    available = [endpoint for endpoint in endpoints if endpoint.available(now)]
    ejected = sorted((e for e in endpoints if not e.available(now)), key=lambda e: e.ejected_until)
    count = len(available)
    if count > 1:
        pair = int(randomness * count * (count - 1))
        first, second = divmod(pair, count - 1)
        second += second >= first
        if available[second].outstanding < available[first].outstanding:
            first = second
        available.insert(0, available.pop(first))
    return available, ejected
