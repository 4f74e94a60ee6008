"""How many of a region's clients are sent elsewhere while its hosts have more to do than they can.

An integrator with a dead band, so that it neither swings nor needs to know how load follows from clients: above the
high mark a step more are sent away with each look, below the low mark a step fewer, in between it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STEP_PERCENT: Final = 10
PERCENT_MAX: Final = 90
"""The rest stays: what is overloaded still serves."""
LOW_SHARE: Final = 0.8
"""Of the high mark, where no low one is given."""
_ROOM_LOAD: Final = 0.8
"""A region without marks takes more clients below this."""


@dataclass(frozen=True, slots=True)
class RegionLoad:
    """A region as it is now. `load` is per processor, None when nobody has told it; marks are 0 where none are set."""

    region: str
    load: float | None
    high: float = 0.0
    low: float = 0.0
    percent: int = 0

    @property
    def low_mark(self) -> float:
        """Below this clients come back, and others' may come."""
        return self.low or self.high * LOW_SHARE or _ROOM_LOAD


def shares(regions: Sequence[RegionLoad]) -> dict[str, int]:
    """By region with marks whose load is known, how many of a hundred client networks are to go elsewhere from now on.

    More are sent away only while another region has room for them; otherwise load would only be passed around.
    """
    result = {}
    for here in regions:
        if not here.high or here.load is None:
            continue
        percent = here.percent
        room = any(o.load is not None and o.load < o.low_mark and not o.percent for o in regions if o is not here)
        if here.load > here.high and room:
            percent = min(PERCENT_MAX, percent + STEP_PERCENT)
        elif here.load < here.low_mark:
            percent = max(0, percent - STEP_PERCENT)
        result[here.region] = percent
    return result
