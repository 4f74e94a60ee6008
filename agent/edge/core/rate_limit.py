"""How many requests each client, or each app, may make: a sliding window that several edges can fill together.

The window slides by weighing the count of the window before with the part of it that is still in sight; with requests
that come evenly that is exact, otherwise it is wrong by less than one window's limit. Counts are of windows of the wall
clock, so that edges that never speak to each other can add theirs in one place.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

KEYS_MAX: Final = 50_000
WINDOW_S: Final = 10.0
SPARED_MAX: Final = 8
"""How many that have asked again are passed over when room is made: a bound on the work for one request."""
WAIT_S_MIN: Final = 0.05


@dataclass(slots=True)
class _Count:
    window: int
    before: int = 0
    total: int = 0
    """Of all edges, as far as it is known, with all of ours."""
    unsent: int = 0
    """Of ours, what nobody else knows so far."""
    again: bool = False
    """It has asked more than once since room was last made at its place."""


@dataclass(frozen=True, slots=True)
class Addition:
    """Requests of one key in one window that were let through here."""

    key: bytes
    window: int
    count: int


class RateLimit:
    """At most `per_s` requests a second for each key, on the average of `window_s` seconds. Times are wall seconds."""

    def __init__(self, per_s: float, window_s: float):
        self.per_s = per_s
        self.window_s = window_s
        self._most = max(1.0, per_s * window_s)
        self._counts: OrderedDict[bytes, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, key: bytes, now: float) -> float:
        """0 when a request may go on, and it is counted; otherwise the seconds after which another try makes sense.

        When there are too many keys, one that has not asked for long is forgotten: those that ask most stay counted.
        """
        position = now / self.window_s
        window = int(position)
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= KEYS_MAX:
                self._make_room()
            count = self._counts[key] = _Count(window)
        else:
            count.again = True
            if count.window != window:
                count.before = count.total if count.window == window - 1 else 0
                count.window, count.total, count.unsent = window, 0, 0
        left = 1.0 - (position - window)
        if count.total + count.before * left < self._most:
            count.total += 1
            count.unsent += 1
            return 0.0
        room = self._most - count.total
        gone = left - room / count.before if count.before and room > 0 else left
        return max(WAIT_S_MIN, gone * self.window_s)

    def _make_room(self) -> None:
        """Second chance (CLOCK): the oldest goes, unless it has asked again since it was last looked at."""
        for _ in range(SPARED_MAX):
            key, count = next(iter(self._counts.items()))
            if not count.again:
                break
            count.again = False
            self._counts.move_to_end(key)
        self._counts.popitem(last=False)

    def additions(self, at_most: int) -> list[Addition]:
        """What others should be told; it counts as told."""
        found = []
        for key, count in self._counts.items():
            if count.unsent:
                found.append(Addition(key, count.window, count.unsent))
                count.unsent = 0
                if len(found) >= at_most:
                    break
        return found

    def learn(self, key: bytes, window: int, total: int) -> None:
        """All edges together have let so many through, ours that were told included."""
        count = self._counts.get(key)
        if count is not None and count.window == window:
            count.total = max(count.total, total + count.unsent)

    def sweep(self, now: float) -> None:
        """Forgets who has not asked for two windows."""
        oldest = int(now / self.window_s) - 1
        for key in [key for key, count in self._counts.items() if count.window < oldest]:
            del self._counts[key]


def client_key(address: bytes) -> bytes:
    """What is one client: an IPv4 address, or the /64 of an IPv6 address, which one host may have all of."""
    if b":" not in address:
        return address
    head, _, tail = address.partition(b"::")
    groups = head.split(b":") if head else []
    if b"::" in address:
        behind = [group for group in tail.split(b":") if group]
        groups += [b"0"] * (8 - len(groups) - len(behind)) + behind
    return b":".join(groups[:4]) + b"::/64"
