"""Which of several control planes leads, and from when and until when this one may: a machine over a lease.

Pure: events in, commands out. `now` is seconds of this process's monotonic clock; the lease's end is counted by the
database's clock, which begins to count later than the question was asked: who counts from then on is never too late.
C. Gray, D. Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency" (1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from fleet.backoff import Backoff

RENEWALS: Final = 3
"""So often within its time a lease is renewed."""
MARGIN: Final = 0.1
"""Part of its time that a holder does without: for clocks that run at different speeds, and to end in order."""
RETRIES: Final = Backoff(base_s=0.2, cap_s=2.0)


@dataclass(frozen=True, slots=True)
class Began:
    """The process began, or what it led has ended: it follows."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The database says whose the lease is; it was asked at `asked_at`."""

    asked_at: float
    mine: bool
    epoch: int
    endpoints: str
    remaining_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The database did not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notified:
    """The lease changed hands, or was given back."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Broke:
    """It could not begin to lead."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for the lease. Answered by Answered or Failed."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Begin to lead, under this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class StandDown:
    """Stop to lead, at once. Answered by Began when that is done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Send callers there. While the database is out of reach that is where the leader was seen last."""

    endpoints: str


Event = Began | Answered | Failed | Notified | Broke | Ticked
Command = Ask | Lead | StandDown | Follow


class Leadership:
    """`handle` takes what happened and returns what to do, in order."""

    def __init__(self, ttl_s: float):
        """`ttl_s` is how long the lease lasts when nobody renews it."""
        self._ttl_s = ttl_s
        self._ending = True
        self._epoch = 0
        self._until = 0.0
        self._asking = False
        self._ask_at = 0.0
        self._failures = 0
        self._endpoints = ""

    def leads(self, now: float) -> bool:
        """Whether this process may act as the leader at this moment."""
        return self._epoch > 0 and now < self._until

    def wait_s(self, now: float) -> float:
        """Seconds until the next Ticked is due."""
        moments = [self._ask_at] if not self._asking else []
        if self._epoch:
            moments.append(self._until)
        return max(0.0, min(moments) - now) if moments else self._ttl_s

    def handle(self, event: Event, now: float) -> list[Command]:
        """What to do now that `event` happened."""
        match event:
            case Began():
                self._ending, self._ask_at = False, now
            case Answered():
                return self._answered(event, now) + self._due(now)
            case Failed(reason):
                self._asking, self._failures = False, self._failures + 1
                self._ask_at = now + RETRIES.ceiling_s(self._failures - 1)
                return self._lost(reason, now) + self._due(now)
            case Notified():
                self._ask_at = now if not self._epoch else self._ask_at
            case Broke(reason):
                return self._stand_down(reason) + self._due(now)
            case Ticked():
                pass
            case _:
                assert_never(event)
        return self._lost("the lease ended before it was renewed", now) + self._due(now)

    def _due(self, now: float) -> list[Command]:
        if self._asking or self._ending or now < self._ask_at:
            return []
        self._asking = True
        return [Ask()]

    def _answered(self, event: Answered, now: float) -> list[Command]:
        self._asking, self._failures = False, 0
        self._ask_at = now + self._ttl_s / RENEWALS
        until = event.asked_at + self._ttl_s * (1 - MARGIN)
        if self._ending:
            return []
        if not event.mine:
            # Asked again as soon as it can be had.
            self._ask_at = min(self._ask_at, now + max(0.0, event.remaining_s))
            return [*self._stand_down("another control plane leads"), *self._follow(event.endpoints)]
        if self._epoch:
            # The answer may have come too late: what counts is whether the time before it was covered.
            if now < self._until:
                self._until = until
                return []
            return self._stand_down("the lease was renewed too late")
        if now >= until:
            return []
        self._epoch, self._until, self._endpoints = event.epoch, until, ""
        return [Lead(event.epoch)]

    def _lost(self, reason: str, now: float) -> list[Command]:
        return self._stand_down(reason) if now >= self._until else []

    def _stand_down(self, reason: str) -> list[Command]:
        if not self._epoch:
            return []
        self._epoch, self._ending = 0, True
        return [StandDown(reason)]

    def _follow(self, endpoints: str) -> list[Command]:
        if endpoints == self._endpoints:
            return []
        self._endpoints = endpoints
        return [Follow(endpoints)]
