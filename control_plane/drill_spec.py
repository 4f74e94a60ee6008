"""What a drill declares: its steps, whom each is done to, and the bounds of a run, with the defaults filled in."""

from __future__ import annotations

from typing import Final

from control_plane import decode
from control_plane.core.drill import FaultStep, Guards
from control_plane.core.drills import Objectives
from control_plane.state import State
from locci.v1 import drill_pb2, node_pb2

INJECTABLE: Final = frozenset(drill_pb2.FaultKind.values()) - {drill_pb2.FAULT_KIND_UNSPECIFIED}
"""What a fleet can do by itself."""
BAD_RELEASE: Final = drill_pb2.FAULT_KIND_BAD_RELEASE
SURGE: Final = drill_pb2.FAULT_KIND_TRAFFIC_SURGE
_WITHDRAWN: Final = frozenset(
    {
        drill_pb2.FAULT_KIND_REGION_CUT,
        drill_pb2.FAULT_KIND_NODE_CUT,
        drill_pb2.FAULT_KIND_INBOUND_CUT,
        drill_pb2.FAULT_KIND_OUTBOUND_CUT,
        drill_pb2.FAULT_KIND_NODE_KILLED,
    }
)
_CUTS_OFF: Final = _WITHDRAWN | {
    drill_pb2.FAULT_KIND_CONTROL_PLANE_CUT,
    drill_pb2.FAULT_KIND_LINK_LOSSY,
    drill_pb2.FAULT_KIND_LINK_SLOW,
}
_STOPS_PROGRAM: Final = frozenset({drill_pb2.FAULT_KIND_PROGRAM_FROZEN, drill_pb2.FAULT_KIND_PROGRAM_KILLED})
_DURATION_DEFAULT_S: Final = 30.0


def steps_of(spec: drill_pb2.DrillSpec) -> list[drill_pb2.DrillStep]:
    """The steps of a drill; one that declares a single fault has one."""
    if spec.steps:
        return list(spec.steps)
    step = drill_pb2.DrillStep(
        fault=spec.fault,
        targets=[spec.target],
        program=spec.program,
        loss_percent=spec.loss_percent,
        rate_kbit=spec.rate_kbit,
        ballast_bytes=spec.ballast_bytes,
        requests_per_second=spec.requests_per_second,
    )
    for field in ("fault_duration", "delay", "clock_offset"):
        if spec.HasField(field):
            getattr(step, field).CopyFrom(getattr(spec, field))
    return [step]


def fault_name(step: drill_pb2.DrillStep) -> str:
    """A fault as people write it, as in `region-cut`."""
    return drill_pb2.FaultKind.Name(step.fault).removeprefix("FAULT_KIND_").lower().replace("_", "-")


def title_of(step: drill_pb2.DrillStep) -> str:
    """What people call a step."""
    what = f"{fault_name(step)} {step.program}".strip()
    return step.title or f"{what} of {', '.join(step.targets)}"


def offset_s(step: drill_pb2.DrillStep) -> float:
    """When a step begins, in seconds since the first."""
    return decode.span_s(step.start_offset)


def duration_s(step: drill_pb2.DrillStep) -> float:
    """How long a step's fault lasts, with the default filled in."""
    return decode.span_s(step.fault_duration) or _DURATION_DEFAULT_S


def withdraws(step: drill_pb2.DrillStep) -> bool:
    """Whether the fault is one that DNS servers must answer by withdrawing the target."""
    return step.fault in _WITHDRAWN or (step.fault in _STOPS_PROGRAM and step.program == "edge")


def fault_steps(spec: drill_pb2.DrillSpec) -> tuple[FaultStep, ...]:
    """The steps as the core sees them."""
    return tuple(
        FaultStep(
            offset_s=offset_s(step),
            duration_s=duration_s(step),
            withdraws=withdraws(step),
            rolls_back=step.fault == BAD_RELEASE,
            title=title_of(step) if spec.steps else "",
        )
        for step in steps_of(spec)
    )


def overlap(one: drill_pb2.DrillStep, other: drill_pb2.DrillStep) -> bool:
    """Whether there is a moment at which both are in effect."""
    return offset_s(one) < offset_s(other) + duration_s(other) and offset_s(other) < offset_s(one) + duration_s(one)


def is_target(node: node_pb2.Node, step: drill_pb2.DrillStep) -> bool:
    """Whether a step is done to a node."""
    return node.name in step.targets or node.region in step.targets


def keeps_from(step: drill_pb2.DrillStep, program: str) -> bool:
    """Whether a program of a step's targets cannot ask others as usual meanwhile, or cannot tell what it saw."""
    return step.fault in _CUTS_OFF or (step.fault in _STOPS_PROGRAM and step.program == program)


def targets(state: State, step: drill_pb2.DrillStep) -> list[node_pb2.Node]:
    """The nodes with an edge that a step is about."""
    return [n for n in state.nodes.values() if is_target(n, step) and node_pb2.NODE_ROLE_EDGE in n.roles]


def subjects(spec: drill_pb2.DrillSpec) -> list[str]:
    """Names of everything that a drill is done to."""
    return list(dict.fromkeys(target for step in steps_of(spec) for target in step.targets))


def objectives(spec: drill_pb2.DrillSpec) -> Objectives:
    """A drill's objectives, with the defaults filled in."""
    return Objectives(
        withdraw_s=decode.span_s(spec.withdraw_objective) or 3.0,
        reroute_s=decode.span_s(spec.reroute_objective) or 10.0,
    )


def guards(spec: drill_pb2.DrillSpec) -> Guards:
    """A drill's guards, with the defaults filled in."""
    return Guards(spec.min_healthy_regions or 1, spec.max_failed_percent, spec.max_load_percent)
