"""The faults of a snapshot. One that this host does not do is refused for itself alone: all else is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from agent.core.faults import AGENT, DURATION_S_MAX, PROGRAMS, Extent, Fault, Kind
from agent.core.policy import LocalPolicy
from fleet.snapshot import Snapshot
from locci.v1 import drill_pb2

DELAY_MS_MAX: Final = 10_000
CLOCK_OFFSET_S_MAX: Final = 86_400.0
SURGE_RATE_MAX: Final = 5_000
DESTINATIONS_MAX: Final = 16
_KINDS: Final = {
    drill_pb2.FAULT_KIND_REGION_CUT: Kind.CUT,
    drill_pb2.FAULT_KIND_NODE_CUT: Kind.CUT,
    drill_pb2.FAULT_KIND_INBOUND_CUT: Kind.INBOUND_CUT,
    drill_pb2.FAULT_KIND_OUTBOUND_CUT: Kind.OUTBOUND_CUT,
    drill_pb2.FAULT_KIND_LINK_LOSSY: Kind.LOSSY,
    drill_pb2.FAULT_KIND_LINK_SLOW: Kind.SLOW,
    drill_pb2.FAULT_KIND_PROGRAM_FROZEN: Kind.FROZEN,
    drill_pb2.FAULT_KIND_DISK_FULL: Kind.DISK_FULL,
    drill_pb2.FAULT_KIND_PROGRAM_KILLED: Kind.KILLED,
    drill_pb2.FAULT_KIND_NODE_KILLED: Kind.NODE_KILLED,
    drill_pb2.FAULT_KIND_REGISTRY_CUT: Kind.REGISTRY_CUT,
    drill_pb2.FAULT_KIND_CONTROL_PLANE_CUT: Kind.CONTROL_PLANE_CUT,
    drill_pb2.FAULT_KIND_CLOCK_JUMP: Kind.CLOCK_JUMP,
    drill_pb2.FAULT_KIND_TRAFFIC_SURGE: Kind.SURGE,
}
_NAME: Final = re.compile(r"faults/[a-z][a-z0-9-]{0,62}/[1-9]\d{0,9}(/[1-9]\d?)?")


def wanted(snapshot: Snapshot, policy: LocalPolicy) -> list[Fault]:
    """The faults that the node is asked to inject, with the reason beside each that it does not."""
    found = sorted(snapshot.of_type("faults").items())
    return [_fault(name, resource.fault, policy) for name, resource in found]


def _fault(name: str, asked: drill_pb2.InjectedFault, policy: LocalPolicy) -> Fault:
    return Fault(
        name=name,
        kind=_KINDS.get(asked.fault, Kind.UNKNOWN),
        duration_s=asked.duration.seconds + asked.duration.nanos / 1e9,
        begin_before=asked.begin_before.seconds + asked.begin_before.nanos / 1e9,
        extent=Extent(
            loss_percent=asked.loss_percent,
            delay_ms=round(1e3 * asked.delay.seconds + asked.delay.nanos / 1e6),
            rate_kbit=asked.rate_kbit,
            ballast_bytes=asked.ballast_bytes,
            program=asked.program,
            clock_offset_s=asked.clock_offset.seconds + asked.clock_offset.nanos / 1e9,
            requests_per_second=asked.requests_per_second,
            destinations=tuple(asked.destinations[:DESTINATIONS_MAX]),
            hostname=asked.hostname,
        ),
        offset_s=asked.start_offset.seconds + asked.start_offset.nanos / 1e9,
        refused="; ".join(_refusals(name, asked, policy)),
    )


def _refusals(name: str, asked: drill_pb2.InjectedFault, policy: LocalPolicy) -> Iterator[str]:
    kind = _KINDS.get(asked.fault)
    duration_s = asked.duration.seconds + asked.duration.nanos / 1e9
    if not policy.drills:
        yield "this host's policy (drills) does not allow drills"
    if not _NAME.fullmatch(name):
        yield f"{name!r} is not of the form faults/{{drill}}/{{run}}"
    if not 0 < duration_s <= DURATION_S_MAX:
        yield f"duration: {duration_s:g} s is not above 0 and at most {DURATION_S_MAX:g} s"
    if kind is None:
        yield f"fault: this agent cannot inject {asked.fault}: upgrade it, or choose another fault"
        return
    if kind.value in policy.forbidden_faults:
        yield f"this host's policy (forbidden_faults) does not allow {kind.value}"
    if kind is Kind.LOSSY and not 1 <= asked.loss_percent <= 100:
        yield f"loss_percent: {asked.loss_percent} is not from 1 to 100"
    delay_ms = round(1e3 * asked.delay.seconds + asked.delay.nanos / 1e6)
    if kind is Kind.SLOW and not (asked.rate_kbit or delay_ms > 0):
        yield "delay, rate_kbit: one of them must say how slow"
    if kind is Kind.SLOW and not 0 <= delay_ms <= DELAY_MS_MAX:
        yield f"delay: {delay_ms} ms is not from 0 to {DELAY_MS_MAX} ms"
    programs = (*PROGRAMS, AGENT) if kind is Kind.KILLED else PROGRAMS
    if kind in (Kind.FROZEN, Kind.KILLED) and asked.program not in programs:
        yield f"program: {asked.program!r} is none of {', '.join(programs)}"
    offset_s = asked.clock_offset.seconds + asked.clock_offset.nanos / 1e9
    if kind is Kind.CLOCK_JUMP and not 0 < abs(offset_s) <= CLOCK_OFFSET_S_MAX:
        yield f"clock_offset: {offset_s:g} s is not up to {CLOCK_OFFSET_S_MAX:g} s forth or back"
    if kind in (Kind.REGISTRY_CUT, Kind.SURGE) and not asked.destinations:
        yield "destinations: at least one must be given"
    if kind is Kind.SURGE and not (1 <= asked.requests_per_second <= SURGE_RATE_MAX and asked.hostname):
        yield f"requests_per_second: 1 to {SURGE_RATE_MAX} of a hostname must be given"
