"""The course of what synthetic clients count in a run: some samples, evenly thinned out when they get many. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SAMPLES_MAX: Final = 120
_APART_S: Final = 0.5
_APART_SHARE: Final = 0.6
"""A sample is kept when it is this far from the last one, of the usual distance: so that thinned ones stay thin."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts since the run began, in seconds since the fault."""

    after_s: float
    requests: int
    failed: int


def sampled(samples: Sequence[Sample], after_s: float | None, requests: int, failed: int) -> list[Sample]:
    """With what is counted now, at most SAMPLES_MAX of them; `after_s` is None before the fault. The newest is among
    them, and every failure is in the counts of the next."""
    kept = list(samples)
    if after_s is None:
        return kept
    newest = Sample(round(after_s, 2), requests, failed)
    if len(kept) >= 2:
        usual_s = max(_APART_S, (kept[-2].after_s - kept[0].after_s) / max(1, len(kept) - 2))
        if kept[-1].after_s - kept[-2].after_s < usual_s * _APART_SHARE:
            kept.pop()
    kept.append(newest)
    if len(kept) > SAMPLES_MAX:
        kept = [*kept[:-1:2], kept[-1]]
    return kept
