"""Whether the host is in order: figures against bounds, with hysteresis, so that one at its bound does not flap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What was measured; None where it is not known. Shares are from 0 to 1."""

    disk_used: float | None = None
    memory_used: float | None = None
    load_per_cpu: float | None = None
    clock_offset_s: float | None = None
    """How far the host's clock is ahead of the control plane's."""
    certificate_left_s: float | None = None
    engine_reason: str = ""
    """Why Docker Engine cannot be used; empty when it can."""
    registry_reason: str = ""
    """Why an image cannot be pulled, when that is the registry's fault; empty when nothing is known against it."""
    space_reason: str = ""
    """Why an image cannot be pulled, when there is no space for it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing about the host. `since` is when it became so, on the monotonic clock."""

    type: str
    ok: bool
    message: str
    since: float


@dataclass(frozen=True, slots=True)
class Bound:
    """Out of order from `bad` on, in order again below `good`; both are turned round for what must not be small."""

    bad: float
    good: float
    small_is_bad: bool = False

    def holds(self, value: float, before: bool) -> bool:
        """Whether a value is in order, when it was `before`."""
        bad, good, value = (-self.bad, -self.good, -value) if self.small_is_bad else (self.bad, self.good, value)
        return value < (bad if before else good)


DISK: Final = Bound(0.90, 0.85)
MEMORY: Final = Bound(0.95, 0.90)
LOAD: Final = Bound(4.0, 3.0)
CLOCK_S: Final = Bound(2.0, 1.0)
CERTIFICATE_S: Final = Bound(6 * 3600.0, 7 * 3600.0, small_is_bad=True)


def judge(figures: HostFigures, before: Mapping[str, Condition], now: float) -> dict[str, Condition]:
    """Every condition by its type; one whose figure is not known stays as it was."""
    found = dict(before)
    for kind, ok, message in _verdicts(figures, before):
        known = before.get(kind)
        same = known is not None and known.ok == ok
        found[kind] = Condition(kind, ok, message, known.since if known is not None and same else now)
    return found


def changed(before: Mapping[str, Condition], after: Mapping[str, Condition]) -> list[Condition]:
    """Conditions that turned; at first sight only those that are out of order."""
    return [c for kind, c in after.items() if (before[kind].ok if kind in before else True) != c.ok]


def _verdicts(figures: HostFigures, before: Mapping[str, Condition]) -> Iterable[tuple[str, bool, str]]:
    def verdict(kind: str, bound: Bound, value: float | None, message: str) -> Iterable[tuple[str, bool, str]]:
        if value is not None:
            was = before[kind].ok if kind in before else True
            yield kind, bound.holds(value, was), message

    disk, memory, load = figures.disk_used, figures.memory_used, figures.load_per_cpu
    offset, left_s = figures.clock_offset_s, figures.certificate_left_s
    if figures.space_reason:
        yield "DiskSpace", False, figures.space_reason
    else:
        yield from verdict("DiskSpace", DISK, disk, f"{disk or 0:.0%} of the disk is used; {DISK.bad:.0%} is too much")
    yield from verdict("Memory", MEMORY, memory, f"{memory or 0:.0%} of memory is used; {MEMORY.bad:.0%} is too much")
    yield from verdict("Load", LOAD, load, f"the load is {load or 0:.1f} per processor; {LOAD.bad:g} is too much")
    words = (
        f"the clock is {abs(offset or 0):.1f} s {'ahead of' if (offset or 0) >= 0 else 'behind'} the control plane's"
    )
    yield from verdict("Clock", CLOCK_S, None if offset is None else abs(offset), words)
    words = f"the certificate is good for {max(0.0, left_s or 0) / 3600:.1f} h; it is renewed at half of its life"
    yield from verdict("Certificate", CERTIFICATE_S, left_s, words)
    yield "Engine", not figures.engine_reason, figures.engine_reason or "Docker Engine answers"
    yield "Registry", not figures.registry_reason, figures.registry_reason or "no pull fails for the registry's fault"
