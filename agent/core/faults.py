"""Faults that a drill asks of this host: which to begin, which to end. The time limit is this host's own.

A fault ends when its time is over, when it is no longer wanted, and after a boot of the host; it is begun once for its
name, whatever the control plane goes on to say. At most one is in effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

START_DELAY_S: Final = 1.0
"""From the acceptance of a fault to its beginning: the control plane hears of the one before the other cuts links."""
DURATION_S_MAX: Final = 900.0
ENDED_MAX: Final = 100


class Kind(Enum):
    """What is broken."""

    CUT = "cut"
    INBOUND_CUT = "inbound-cut"
    OUTBOUND_CUT = "outbound-cut"
    LOSSY = "link-lossy"
    SLOW = "link-slow"
    FROZEN = "program-frozen"
    DISK_FULL = "disk-full"
    UNKNOWN = "unknown"
    """Nothing that this agent knows: it is always refused."""


PROGRAMS: Final = ("edge", "dns", "redis", "dockerd")
"""What can be frozen. Not the agent: what is frozen ends no fault."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How bad it is; each kind looks at its own fields."""

    loss_percent: int = 0
    delay_ms: int = 0
    rate_kbit: int = 0
    ballast_bytes: int = 0
    """0 for all but the reserve."""
    program: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault as it is wanted. `name` is its resource's; `begin_before` is in seconds since 1970."""

    name: str
    kind: Kind
    duration_s: float
    begin_before: float
    extent: Extent = Extent()
    refused: str = ""
    """Why this host does not do it, in a sentence; empty when it does."""


@dataclass(frozen=True, slots=True)
class Active:
    """A fault that was begun, or was about to be. `until` is on the clock that counts from the boot `boot_id`."""

    fault: Fault
    until: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Journal:
    """What must survive a crash: it is on disk before anything is done."""

    active: Active | None = None
    ended: tuple[str, ...] = ()
    """Names of faults that are not to be begun again, oldest first."""

    def begun(self, active: Active) -> Journal:
        """With a fault in effect."""
        return replace(self, active=active)

    def closed(self, name: str) -> Journal:
        """With this fault over."""
        active = None if self.active is not None and self.active.fault.name == name else self.active
        kept = (*(other for other in self.ended if other != name), name)[-ENDED_MAX:]
        return Journal(active, kept)


@dataclass(frozen=True, slots=True)
class Begin:
    """Write it down, then inject it."""

    active: Active


@dataclass(frozen=True, slots=True)
class End:
    """Undo it, then write that down."""

    fault: Fault
    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Never begin it."""

    fault: Fault
    reason: str


Step = Begin | End | Skip


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: seconds since the boot `boot_id`, and seconds since 1970."""

    boot_id: str
    uptime_s: float
    wall_s: float


def plan(wanted: Mapping[Fault, float], journal: Journal, now: Moment) -> Step | None:
    """The next step, or None; `wanted` says since which uptime each fault is wanted."""
    active = journal.active
    if active is not None:
        reason = _why_end(active, wanted, now)
        return End(active.fault, reason) if reason else None
    for fault, since in sorted(wanted.items(), key=lambda item: item[0].name):
        if fault.name in journal.ended:
            continue
        if fault.refused:
            return Skip(fault, fault.refused)
        if now.wall_s > fault.begin_before:
            return Skip(fault, "the time to begin it is over")
        if now.uptime_s >= since + START_DELAY_S:
            duration_s = min(fault.duration_s, DURATION_S_MAX)
            return Begin(Active(fault, now.uptime_s + duration_s, now.boot_id))
    return None


def _why_end(active: Active, wanted: Mapping[Fault, float], now: Moment) -> str:
    if active.boot_id != now.boot_id:
        return "the host was booted anew"
    if now.uptime_s >= active.until:
        return "its time is over"
    if active.fault.name not in {fault.name for fault in wanted}:
        return "it was called off"
    return ""
