"""How much one caller may ask for: a rate, and so much at once; watches are counted apart. Pure.

A token bucket for each caller holds `burst` requests and fills by `rate_per_s`. Time in seconds is an argument.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from fleet.errors import Code, LocciError

CALLERS_MAX: Final = 10_000
"""So many callers are remembered; beyond that one that asks for nothing now is forgotten, the oldest first."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one caller may do. A rate of 0 sets no bound."""

    rate_per_s: float = 100.0
    burst: int = 400
    requests: int = 64
    watches: int = 64


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a caller has left: `limit` requests at most, `remaining` of them now, all of them again in `reset_s`."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(slots=True)
class _Caller:
    tokens: float
    at: float
    requests: int = 0
    watches: int = 0


class Quotas:
    """Counts what callers do. Each `enter…` that returns is followed by its `leave…`."""

    def __init__(self, quota: Quota):
        self.quota = quota
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def enter(self, principal: str, now: float, *, watch: bool = False) -> Remaining | None:
        """Counts a request that begins; None when there is no bound on the rate. Raises RESOURCE_EXHAUSTED.

        The error's metadata has `retry_after_s`, whole seconds after which it is worth another try.
        """
        caller = self._caller(principal, now)
        busy, most = (caller.watches, self.quota.watches) if watch else (caller.requests, self.quota.requests)
        if busy >= most:
            what = "watches are open" if watch else "requests are in progress"
            raise _exhausted("TOO_MANY_AT_ONCE", f"{most} {what} with this token: end one, then try again", 1)
        remaining = self._take(caller)
        if watch:
            caller.watches += 1
        else:
            caller.requests += 1
        return remaining

    def leave(self, principal: str, *, watch: bool = False) -> None:
        """Counts a request that ended."""
        caller = self._callers[principal]
        if watch:
            caller.watches -= 1
        else:
            caller.requests -= 1
        assert caller.requests >= 0
        assert caller.watches >= 0

    def _caller(self, principal: str, now: float) -> _Caller:
        caller = self._callers.get(principal)
        if caller is None:
            caller = self._callers[principal] = _Caller(float(self.quota.burst), now)
            self._forget()
        self._callers.move_to_end(principal)
        filled = caller.tokens + max(0.0, now - caller.at) * self.quota.rate_per_s
        caller.tokens, caller.at = min(float(self.quota.burst), filled), now
        return caller

    def _take(self, caller: _Caller) -> Remaining | None:
        quota = self.quota
        if not quota.rate_per_s:
            return None
        if caller.tokens < 1:
            wait_s = math.ceil((1 - caller.tokens) / quota.rate_per_s)
            message = f"more than {quota.rate_per_s:g} requests a second with this token; try again in {wait_s} s"
            raise _exhausted("RATE_EXCEEDED", message, wait_s)
        caller.tokens -= 1
        reset_s = math.ceil((quota.burst - caller.tokens) / quota.rate_per_s)
        return Remaining(quota.burst, int(caller.tokens), reset_s)

    def _forget(self) -> None:
        if len(self._callers) > CALLERS_MAX:
            idle = next((name for name, held in self._callers.items() if not held.requests + held.watches), None)
            if idle is not None:
                del self._callers[idle]


def _exhausted(reason: str, message: str, retry_after_s: int) -> LocciError:
    return LocciError(Code.RESOURCE_EXHAUSTED, reason, message, metadata={"retry_after_s": str(retry_after_s)})
