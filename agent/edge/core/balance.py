"""Which endpoint gets a request: of two random ones the one that is likely to answer sooner; those that fail are left
out for a while, and those that come back get their full share only after some seconds.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001. What is compared
is requests in progress times a moving average of the time to an answer that rises at once and falls slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EJECTION_BASE_S: Final = 1.0
EJECTION_CAP_S: Final = 30.0
SERVER_ERRORS_MAX: Final = 5
TRIAL_S: Final = 5.0
"""A trial that has not ended by then is taken for lost, and another may begin."""
LATENCY_DECAY_S: Final = 5.0
LATENCY_FLOOR_S: Final = 0.01
"""Below it a difference says more of the host's other work than of the endpoint."""
SLOW_START_S: Final = 10.0
SLOW_START_SHARE: Final = 0.1
"""What an endpoint gets of its share at first."""


@dataclass(slots=True)
class Endpoint:
    """What is known of one endpoint. Times are monotonic seconds."""

    address: str
    outstanding: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    server_errors: int = 0
    trial_until: float = 0.0
    entered: float = -math.inf
    """When it came in beside others, or came back after failures."""
    latency_s: float = 0.0
    """The average at `measured`; it fades, so that one that was slow is tried again."""
    measured: float = 0.0
    answers: int = 0
    losses: int = 0
    """Requests that it did not take, or took and broke off, not counting answers that came too late."""
    loss: str = ""
    """What the last one was."""
    unreachable: bool = False
    """No connection came about. Requests go elsewhere until a look (`checks`) finds a way again."""

    def available(self, now: float) -> bool:
        """Whether it may get requests: not ejected, or due for a trial that nobody makes yet."""
        if self.ejections == 0:
            return True
        return not self.unreachable and now >= self.ejected_until and now >= self.trial_until

    def begin(self, now: float) -> None:
        """A request goes there."""
        self.outstanding += 1
        if self.ejections and now >= self.ejected_until:
            self.trial_until = now + TRIAL_S

    def end(self) -> None:
        """The request is over."""
        self.outstanding -= 1

    def cost(self, now: float) -> float:
        """The seconds in which one more request is likely to be answered; good for comparing only."""
        return (self.outstanding + 1) * max(LATENCY_FLOOR_S, self._latency(now))

    def share(self, now: float) -> float:
        """The part of its full share that it is given, from `SLOW_START_SHARE` to 1."""
        return min(1.0, max(SLOW_START_SHARE, (now - self.entered) / SLOW_START_S))

    def answered(self, status: int, now: float, took_s: float | None = None) -> None:
        """A response head came, `took_s` seconds after the request when that says something of the endpoint.

        Five 502, 503 or 504 in a row eject; anything else clears. How soon an error comes counts for nothing.
        """
        self.unreachable = False
        self.trial_until = 0.0
        self.answers += 1
        # Where both are below the floor, it makes no difference which it is.
        if took_s is not None and status < 500 and (took_s > LATENCY_FLOOR_S or self.latency_s > LATENCY_FLOOR_S):
            self._measure(took_s, now)
        if status not in (502, 503, 504):
            if self.ejections:
                self.entered = now
            self.server_errors = self.ejections = 0
            return
        self.server_errors += 1
        if self.server_errors >= SERVER_ERRORS_MAX or self.ejections:
            self._eject(now)

    def failed(self, now: float, *, reached: bool = True) -> None:
        """It could not be `reached`, or broke off before an answer: ejected at once, so that only one request pays."""
        self.unreachable = not reached
        self._eject(now)

    def reached(self, now: float) -> None:
        """A look found a way: it gets requests again, few at first."""
        if self.unreachable:
            self.forgive()
            self.entered = now

    def lost(self, reason: str) -> None:
        """A request did not get there, or its connection broke off before an answer."""
        self.losses += 1
        self.loss = reason

    def forgive(self) -> None:
        """Its failures count no more; what is in progress does."""
        self.ejections = self.server_errors = 0
        self.unreachable = False
        self.ejected_until = self.trial_until = self.latency_s = 0.0

    def _latency(self, now: float) -> float:
        return self.latency_s * math.exp(min(0.0, self.measured - now) / LATENCY_DECAY_S)

    def _measure(self, took_s: float, now: float) -> None:
        if took_s < self.latency_s:
            kept = math.exp(min(0.0, self.measured - now) / LATENCY_DECAY_S)
            took_s += (self.latency_s - took_s) * kept
        self.latency_s, self.measured = took_s, now

    def _eject(self, now: float) -> None:
        delay = min(EJECTION_CAP_S, EJECTION_BASE_S * 2.0 ** min(self.ejections, 10))
        self.ejections += 1
        self.server_errors = 0
        self.trial_until = 0.0
        self.ejected_until = max(self.ejected_until, now + delay)


def order(endpoints: Sequence[Endpoint], now: float, randomness: float) -> tuple[list[Endpoint], list[Endpoint]]:
    """Available ones in the order in which to try them, and ejected ones, soonest back first.

    `randomness`, from 0 to 1 exclusive, chooses the two that are compared, and whether one that has just entered wins.
    """
    available = [endpoint for endpoint in endpoints if endpoint.available(now)]
    ejected = sorted((e for e in endpoints if not e.available(now)), key=lambda e: e.ejected_until)
    if len(available) > 1:
        available.insert(0, available.pop(pick(available, now, randomness)))
    return available, ejected


def pick(available: Sequence[Endpoint], now: float, randomness: float) -> int:
    """Which of several available ones comes first; `randomness` as for `order`."""
    count = len(available)
    pair, rest = divmod(randomness * count * (count - 1), 1.0)
    first, second = divmod(int(pair), count - 1)
    second += second >= first
    if available[second].cost(now) < available[first].cost(now):
        first, second = second, first
    return second if rest >= available[first].share(now) else first
