"""Faults that a drill asks of this host: which to begin, which to end. The time limit is this host's own.

A fault ends when its time is over, when it is no longer wanted, and after a boot of the host; it is begun once for its
name, whatever the control plane goes on to say. Of those that take hold of the same part of the host one is in effect
at a time.
"""

from __future__ import annotations

from collections.abc import Collection
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
    KILLED = "program-killed"
    NODE_KILLED = "node-killed"
    DISK_FULL = "disk-full"
    REGISTRY_CUT = "registry-cut"
    CONTROL_PLANE_CUT = "control-plane-cut"
    CLOCK_JUMP = "clock-jump"
    SURGE = "traffic-surge"
    UNKNOWN = "unknown"
    """Nothing that this agent knows: it is always refused."""


PROGRAMS: Final = ("edge", "dns", "redis", "dockerd")
"""What can be frozen, and killed and kept down. Not the agent: what is frozen ends no fault."""
AGENT: Final = "agent"
"""It can be killed once: init starts it again."""


class Part(Enum):
    """What a fault takes hold of on the host."""

    FIREWALL = "the firewall"
    SHAPER = "the shaping of links"
    PROGRAMS = "programs"
    DISK = "the disk"
    CLOCK = "the clock"
    SURGE = "requests"


_PARTS: Final = {
    Kind.SLOW: Part.SHAPER,
    Kind.FROZEN: Part.PROGRAMS,
    Kind.KILLED: Part.PROGRAMS,
    Kind.NODE_KILLED: Part.PROGRAMS,
    Kind.DISK_FULL: Part.DISK,
    Kind.CLOCK_JUMP: Part.CLOCK,
    Kind.SURGE: Part.SURGE,
}


@dataclass(frozen=True, slots=True)
class Extent:
    """How bad it is; each kind looks at its own fields."""

    loss_percent: int = 0
    delay_ms: int = 0
    rate_kbit: int = 0
    ballast_bytes: int = 0
    """0 for all but the reserve."""
    program: str = ""
    clock_offset_s: float = 0.0
    requests_per_second: int = 0
    destinations: tuple[str, ...] = ()
    """`host:port` that cannot be reached, or addresses that are asked."""
    hostname: str = ""


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
    offset_s: float = 0.0
    """It begins so long after the first of its run."""

    @property
    def mark(self) -> str:
        """Tells it from another of the same name: a drill that is declared anew, or a control plane that is restored
        from a backup, counts its runs from the beginning."""
        return f"{self.name} {self.begin_before:.3f}"

    @property
    def part(self) -> Part:
        """What it takes hold of."""
        return _PARTS.get(self.kind, Part.FIREWALL)


@dataclass(frozen=True, slots=True)
class Active:
    """A fault that was begun, or was about to be. `until` is on the clock that counts from the boot `boot_id`."""

    fault: Fault
    until: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """Since when the fault of this mark is wanted, on the clock that counts from the boot `boot_id`."""

    name: str
    since: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Journal:
    """What must survive a crash: it is on disk before anything is done."""

    active: tuple[Active, ...] = ()
    ended: tuple[str, ...] = ()
    """Marks of faults that are not to be begun again, oldest first; agents of before wrote names."""
    accepted: tuple[Accepted, ...] = ()
    """Those that wait for their time: an agent that is started anew begins them when it would have."""

    def noted(self, accepted: tuple[Accepted, ...]) -> Journal:
        """With these waiting, and no others."""
        return replace(self, accepted=accepted)

    def begun(self, active: Active) -> Journal:
        """With one fault more in effect."""
        return replace(self, active=(*self.active, active))

    def has_ended(self, fault: Fault) -> bool:
        """Whether the fault is not to be begun again."""
        return fault.mark in self.ended or fault.name in self.ended

    def closed(self, fault: Fault) -> Journal:
        """With this fault over."""
        active = tuple(other for other in self.active if other.fault.mark != fault.mark)
        kept = (*(other for other in self.ended if other != fault.mark), fault.mark)[-ENDED_MAX:]
        return replace(self, active=active, ended=kept)


@dataclass(frozen=True, slots=True)
class Note:
    """Write down since when each fault is wanted."""

    accepted: tuple[Accepted, ...]


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


Step = Note | Begin | End | Skip


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: seconds since the boot `boot_id`, and seconds since 1970."""

    boot_id: str
    uptime_s: float
    wall_s: float


def plan(wanted: Collection[Fault], journal: Journal, now: Moment) -> list[Step]:
    """What is due now: every end, of which one that cannot be done yet holds nothing else up, and one other step."""
    marks = {fault.mark for fault in wanted}
    due: list[Step] = [
        End(active.fault, reason) for active in journal.active if (reason := _why_end(active, marks, now))
    ]
    if (accepted := _accepted(wanted, journal, now)) != journal.accepted:
        return [*due, Note(accepted)]
    known = {one.name: one for one in accepted}
    held = {active.fault.mark for active in journal.active}
    for fault in sorted(wanted, key=lambda fault: (fault.offset_s, fault.name)):
        if fault.mark in held or journal.has_ended(fault):
            continue
        if (step := _first_step(fault, known[fault.mark], journal, now)) is not None:
            return [*due, step]
    return due


def _accepted(wanted: Collection[Fault], journal: Journal, now: Moment) -> tuple[Accepted, ...]:
    """Of those that are wanted and have not ended, since when; the first time counts."""
    known = {one.name: one for one in journal.accepted}
    marks = sorted({fault.mark for fault in wanted if not journal.has_ended(fault)})
    return tuple(known.get(mark) or Accepted(mark, now.uptime_s, now.boot_id) for mark in marks)


def _first_step(fault: Fault, accepted: Accepted, journal: Journal, now: Moment) -> Begin | Skip | None:
    if fault.refused:
        return Skip(fault, fault.refused)
    if accepted.boot_id != now.boot_id:
        return Skip(fault, "the host was booted anew before its time")
    holding = next((active.fault.name for active in journal.active if active.fault.part is fault.part), "")
    if now.wall_s > fault.begin_before:
        what = f"{holding} holds {fault.part.value}" if holding else "the time to begin it is over"
        return Skip(fault, what)
    if holding or now.uptime_s < accepted.since + START_DELAY_S + fault.offset_s:
        return None
    duration_s = min(fault.duration_s, DURATION_S_MAX)
    return Begin(Active(fault, now.uptime_s + duration_s, now.boot_id))


def _why_end(active: Active, wanted: set[str], now: Moment) -> str:
    if active.boot_id != now.boot_id:
        return "the host was booted anew"
    if now.uptime_s >= active.until:
        return "its time is over"
    if active.fault.mark not in wanted:
        return "it was called off"
    return ""
