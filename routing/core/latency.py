"""How long a packet takes to a region and back, for clients of one network: measured, or at least so long.

A region that was never measured counts with the time that light needs for the distance: with less than it can have. So
it is tried where it could be the fastest, is measured then, and from there on the measure counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from routing.core.model import Latencies

_KM_PER_MS: Final = 100
"""Of the round trip: light in fibre makes 200 km in a millisecond."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A round trip in milliseconds; not `measured`, it is the least that the distance allows."""

    milliseconds: int
    measured: bool

    def __str__(self) -> str:
        return f"{self.milliseconds} ms" if self.measured else f"at least {self.milliseconds} ms by its distance"


def expected(latencies: Latencies, km: Mapping[str, int]) -> dict[str, Expected]:
    """By region, what a client can expect; `km` are the distances that are known."""
    guessed = {region: Expected(far // _KM_PER_MS, False) for region, far in km.items()}
    return guessed | {region: Expected(milliseconds, True) for region, milliseconds in latencies}


def fast_enough(times: Mapping[str, Expected], candidates: Collection[str], within_ms: int) -> frozenset[str]:
    """The candidates that are slower than the fastest of them by `within_ms` at most: between those a difference would
    only make clients go to and fro. A guess is never as good as the measure that it must beat."""
    known = {region: times[region] for region in candidates if region in times}
    best = min((time.milliseconds for time in known.values()), default=0)
    measured = min((time.milliseconds for time in known.values() if time.measured), default=None)

    def fits(time: Expected) -> bool:
        promising = measured is None or time.milliseconds < measured - within_ms
        return time.milliseconds <= best + within_ms and (time.measured or promising)

    return frozenset(region for region, time in known.items() if fits(time))
