"""The brake: when most regions go dark at once, suspect yourself.

Whoever loses sight of more than half of the regions within a short time is more likely cut off than right. Then
nothing is withdrawn on own probes alone, and what was withdrawn on them in that time comes back: clients that still
reach this server get the last good answers. It lets go when most regions are seen again, or, when a region other
than the own one answers all the time, after a while: whoever reaches us then probably sees what we see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sight:
    """One target as the brake sees it. `counted` is whether it was in rotation a moment ago."""

    region: str
    dark: bool
    counted: bool
    answered_at: float


@dataclass(frozen=True, slots=True)
class BrakeState:
    """Whether the brake is on for one family, since when, and over which regions."""

    applied: bool = False
    since: float = 0.0
    dark: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    released_until_bright: bool = False


@dataclass(frozen=True, slots=True)
class BrakePolicy:
    """Times in seconds."""

    window_s: float = 10.0
    hold_s: float = 30.0
    patience_s: float = 3.0

    def unsure(self, sights: Iterable[Sight], failing_since: float, now: float) -> bool:
        """Whether it is too early to tell one failing target from a failing self: too few regions have answered
        since the failure began, and those that have not may be dark as well. It ends after `patience_s`."""
        if now - failing_since >= self.patience_s:
            return False
        regions: dict[str, bool] = {}
        for sight in sights:
            if sight.counted:
                answered = not sight.dark and sight.answered_at >= failing_since
                regions[sight.region] = regions.get(sight.region, False) or answered
        silent = sum(1 for answered in regions.values() if not answered)
        return len(regions) > 1 and 2 * silent > len(regions)

    def next(self, state: BrakeState, sights: Iterable[Sight], own_region: str, now: float) -> BrakeState:
        """The state after a look at all targets of the family."""
        regions: dict[str, bool] = {}
        for sight in sights:
            if sight.counted:
                regions[sight.region] = regions.get(sight.region, True) and sight.dark
        dark = tuple(sorted(region for region, nothing in regions.items() if nothing))
        seen = tuple(sorted(region for region, nothing in regions.items() if not nothing))
        if len(regions) < 2 or 2 * len(dark) <= len(regions):
            return BrakeState(False, now if state.applied else state.since, dark, seen)
        if state.released_until_bright:
            return BrakeState(False, state.since, dark, seen, True)
        if not state.applied:
            return BrakeState(True, now, dark, seen)
        if now - state.since >= self.hold_s and any(region != own_region for region in seen):
            return BrakeState(False, now, dark, seen, True)
        return BrakeState(True, state.since, dark, seen)
