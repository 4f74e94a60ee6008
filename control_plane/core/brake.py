"""The brake: when most of the fleet goes dark at once, the control plane suspects itself and moves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

AT_ONCE_S: Final = 30.0
"""Nodes that went dark within so long of each other did so at once."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A node that has been connected, and since when it is dark; None while it is not."""

    node: str
    region: str
    dark_since: float | None


@dataclass(frozen=True, slots=True)
class Brake:
    """Whether rescheduling is frozen, since when and why."""

    engaged: bool = False
    since: float = 0.0
    reason: str = ""


def step(brake: Brake, sights: Sequence[Sight], now: float) -> Brake:
    """The brake after a look at the fleet. It engages on darkness at once, and holds until enough is back."""
    dark = [s for s in sights if s.dark_since is not None]
    if brake.engaged:
        return brake if _reason(dark, sights) else Brake(False, now, "enough nodes are back")
    reason = _reason(_at_once(dark), sights)
    return Brake(True, now, reason) if reason else brake


def _at_once(dark: Sequence[Sight]) -> list[Sight]:
    """The largest set of nodes that went dark within `AT_ONCE_S` of each other."""
    ordered = sorted(dark, key=lambda s: (s.dark_since or 0.0, s.node))
    begin = end = first = 0
    for last, sight in enumerate(ordered):
        while (sight.dark_since or 0.0) - (ordered[first].dark_since or 0.0) > AT_ONCE_S:
            first += 1
        if last + 1 - first > end - begin:
            begin, end = first, last + 1
    return ordered[begin:end]


def _reason(dark: Sequence[Sight], sights: Sequence[Sight]) -> str:
    if len(dark) >= 2 and 2 * len(dark) > len(sights):
        return f"{len(dark)} of {len(sights)} nodes are dark"
    names = {s.node for s in dark}
    lit = {s.region for s in sights if s.node not in names}
    regions = sorted({s.region for s in dark} - lit)
    return f"every node of the regions {', '.join(regions)} is dark" if len(regions) > 1 else ""
