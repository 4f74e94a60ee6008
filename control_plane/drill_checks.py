"""Whether what a drill declares means something. What does not is refused with the field and what to do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from control_plane import decode
from control_plane.core import drill_times
from control_plane.core.drill import DURATION_S_MAX
from control_plane.drill_spec import BAD_RELEASE, SURGE, fault_name, offset_s, overlap, steps_of, targets
from control_plane.state import State
from fleet.errors import invalid
from fleet.ids import check_hostname
from locci.v1 import drill_pb2

_DELAY_S_MAX: Final = 10.0
_CLOCK_S_MAX: Final = 86_400.0
_RATE_MAX: Final = 5_000
_WINDOWS_MAX: Final = 50
_STEPS_MAX: Final = 20
_TARGETS_MAX: Final = 50
_TITLE_MAX: Final = 100
_PROGRAMS: Final = ("edge", "dns", "dockerd", "redis")
_RESOLVERS: Final = ("", "host", "servers")
_SINGLE: Final = (
    *("target", "program", "loss_percent", "rate_kbit", "ballast_bytes", "requests_per_second"),
    *("fault_duration", "delay", "clock_offset"),
)
_FIREWALL: Final = "the firewall"
_PROCESSES: Final = "programs"
_PARTS: Final = {
    drill_pb2.FAULT_KIND_REGION_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_NODE_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_INBOUND_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_OUTBOUND_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_LINK_LOSSY: _FIREWALL,
    drill_pb2.FAULT_KIND_REGISTRY_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_CONTROL_PLANE_CUT: _FIREWALL,
    drill_pb2.FAULT_KIND_PROGRAM_KILLED: _PROCESSES,
    drill_pb2.FAULT_KIND_PROGRAM_FROZEN: _PROCESSES,
    drill_pb2.FAULT_KIND_NODE_KILLED: _PROCESSES,
}
"""What a fault takes hold of on a host; two faults at once cannot share it. Those not named have a part of their
own."""


def check(state: State, spec: drill_pb2.DrillSpec) -> None:
    """Raises INVALID_ARGUMENT or NOT_FOUND."""
    path = "drill.spec"
    steps = steps_of(spec)
    if spec.steps:
        _check_list(spec, path)
    for index, step in enumerate(steps):
        at = f"{path}.steps[{index}]" if spec.steps else path
        _check_targets(state, step, at, "targets" if spec.steps else "target")
        _check_extent(step, at)
        _check_programs(step, at)
    for index, step in enumerate(steps):
        for other in steps[:index]:
            _check_apart(state, step, other, f"{path}.steps[{index}]")
    _check_bounds(spec)
    if spec.resolver not in _RESOLVERS and not _is_address(spec.resolver):
        text = f"{path}.resolver: {spec.resolver!r} is neither host, nor servers, nor the address of a resolver"
        raise invalid(f"{path}.resolver", text)
    check_hostname(spec.hostname, f"{path}.hostname")


def _check_list(spec: drill_pb2.DrillSpec, path: str) -> None:
    if len(spec.steps) > _STEPS_MAX:
        raise invalid(f"{path}.steps", f"{path}.steps: at most {_STEPS_MAX} steps, not {len(spec.steps)}")
    given = [field.name for field, _ in spec.ListFields() if field.name in _SINGLE]
    if spec.fault or given:
        name = given[0] if given else "fault"
        raise invalid(f"{path}.{name}", f"{path}.{name}: belongs into a step, where there are steps")
    before = 0.0
    for index, step in enumerate(spec.steps):
        at = f"{path}.steps[{index}]"
        if not index and offset_s(step):
            raise invalid(f"{at}.start_offset", f"{at}.start_offset: the first step begins at 0")
        if not before <= offset_s(step) < DURATION_S_MAX:
            text = f"steps are in the order in which they begin, within {DURATION_S_MAX:g} s"
            raise invalid(f"{at}.start_offset", f"{at}.start_offset: {text}")
        before = offset_s(step)
        if len(step.title) > _TITLE_MAX:
            raise invalid(f"{at}.title", f"{at}.title: at most {_TITLE_MAX} characters")


def _check_targets(state: State, step: drill_pb2.DrillStep, at: str, field: str) -> None:
    if step.fault == drill_pb2.FAULT_KIND_UNSPECIFIED:
        raise invalid(f"{at}.fault", f"{at}.fault: say what is broken, as in FAULT_KIND_REGION_CUT")
    if step.fault not in drill_pb2.FaultKind.values():
        raise invalid(f"{at}.fault", f"{at}.fault: {step.fault} is not known to this control plane: upgrade it")
    allowed = {drill_pb2.FAULT_KIND_REGION_CUT: ("regions",), drill_pb2.FAULT_KIND_NODE_CUT: ("nodes",)}.get(
        step.fault, ("apps",) if step.fault == BAD_RELEASE else ("nodes", "regions")
    )
    if not 1 <= len(step.targets) <= (1 if step.fault == BAD_RELEASE else _TARGETS_MAX):
        many = "exactly one app" if step.fault == BAD_RELEASE else f"1 to {_TARGETS_MAX} targets"
        raise invalid(f"{at}.{field}", f"{at}.{field}: name {many}")
    tables = {"regions": state.regions, "nodes": state.nodes, "apps": state.apps}
    for target in step.targets:
        kind, _, name = target.partition("/")
        if not name or kind not in allowed:
            forms = " or ".join(f"{kind}/{{{kind[:-1]}}}" for kind in allowed)
            text = f"{at}.{field}: {target!r} is not of the form {forms}, as {fault_name(step)} wants"
            raise invalid(f"{at}.{field}", text)
        tables[kind].need(target)  # type: ignore[attr-defined]


def _check_programs(step: drill_pb2.DrillStep, at: str) -> None:
    killed = step.fault == drill_pb2.FAULT_KIND_PROGRAM_KILLED
    frozen = step.fault == drill_pb2.FAULT_KIND_PROGRAM_FROZEN
    programs = (*_PROGRAMS, *(("agent",) if killed else ()))
    path = f"{at}.program"
    if (killed or frozen) != bool(step.program):
        raise invalid(path, f"{path}: name the program when one is killed or frozen, and only then")
    if step.program and step.program not in programs:
        raise invalid(path, f"{path}: {step.program!r} is none of {', '.join(programs)}")


def _check_extent(step: drill_pb2.DrillStep, at: str) -> None:
    """Raises INVALID_ARGUMENT when a fault lacks what it needs, or has what belongs to another."""
    for problem_at, problem in _extent_problems(step):
        raise invalid(f"{at}.{problem_at}", f"{at}.{problem_at}: {problem}")


def _extent_problems(step: drill_pb2.DrillStep) -> Iterator[tuple[str, str]]:
    lossy = step.fault == drill_pb2.FAULT_KIND_LINK_LOSSY
    slow = step.fault == drill_pb2.FAULT_KIND_LINK_SLOW
    jump = step.fault == drill_pb2.FAULT_KIND_CLOCK_JUMP
    delay_s, clock_s = decode.span_s(step.delay), decode.span_s(step.clock_offset)
    rate = step.requests_per_second
    if not (1 <= step.loss_percent <= 100 if lossy else step.loss_percent == 0):
        yield "loss_percent", "give 1 to 100 for a lossy link, and nothing for another fault"
    if not (0 <= delay_s <= _DELAY_S_MAX and (slow or not (delay_s or step.rate_kbit))):
        yield "delay", f"give at most {_DELAY_S_MAX:g} s for a slow link, and nothing for another fault"
    if slow and not (delay_s or step.rate_kbit):
        yield "delay", "a slow link needs a delay, a rate_kbit, or both"
    if step.ballast_bytes and step.fault != drill_pb2.FAULT_KIND_DISK_FULL:
        yield "ballast_bytes", "only a full disk takes bytes"
    if not (0 < abs(clock_s) <= _CLOCK_S_MAX if jump else clock_s == 0):
        yield (
            "clock_offset",
            f"give up to {_CLOCK_S_MAX:g} s, forth or back, for a clock, and nothing for another fault",
        )
    if not (1 <= rate <= _RATE_MAX if step.fault == SURGE else rate == 0):
        yield "requests_per_second", f"give 1 to {_RATE_MAX} for a surge, and nothing for another fault"


def _check_apart(state: State, step: drill_pb2.DrillStep, other: drill_pb2.DrillStep, at: str) -> None:
    """Two faults at once must not take hold of the same part of a host."""
    if BAD_RELEASE in (step.fault, other.fault):
        shared = set(step.targets) & set(other.targets)
    else:
        mine = {node.name for node in targets(state, step)} | set(step.targets)
        shared = mine & ({node.name for node in targets(state, other)} | set(other.targets))
    part, their = (_PARTS.get(one.fault, fault_name(one)) for one in (step, other))
    if shared and part == their and overlap(step, other):
        text = f"{at}: two faults at once of {part} on {min(shared)}: let one begin when the other has ended"
        raise invalid(at, text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_bounds(spec: drill_pb2.DrillSpec) -> None:
    """Raises INVALID_ARGUMENT when a guard, the schedule or a window means nothing."""
    if spec.max_failed_percent > 100:
        path = "drill.spec.max_failed_percent"
        raise invalid(path, f"{path}: {spec.max_failed_percent} is more than 100")
    if len(spec.blocked) > _WINDOWS_MAX:
        raise invalid("drill.spec.blocked", f"drill.spec.blocked: at most {_WINDOWS_MAX} windows")
    try:
        path = "drill.spec.schedule"
        if spec.schedule:
            drill_times.cron(spec.schedule)
        for index, text in enumerate(spec.blocked):
            path = f"drill.spec.blocked[{index}]"
            drill_times.window(text)
    except ValueError as error:
        raise invalid(path, f"{path}: {error}") from error
