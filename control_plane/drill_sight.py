"""What is seen of the targets of a drill: by DNS servers elsewhere, by the control plane, by synthetic clients."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from control_plane import decode
from control_plane.core.drill import Sight, StepSight
from control_plane.core.model import Condition
from control_plane.core.rollout import TERMINAL
from control_plane.core.rollout import State as RolloutState
from control_plane.drill_asks import apps_of, holders, resource_of
from control_plane.drill_release import unfit_for_release
from control_plane.drill_spec import (
    BAD_RELEASE,
    SURGE,
    duration_s,
    is_target,
    keeps_from,
    offset_s,
    overlap,
    steps_of,
    targets,
)
from control_plane.observed import Observed
from control_plane.state import State
from fleet.ids import last_part
from locci.v1 import drill_pb2, node_pb2

_EDGE = node_pb2.NODE_ROLE_EDGE


def sight_of(state: State, observed: Observed, row: drill_pb2.DrillRun, after_s: float | None) -> Sight:
    """What is seen of a run, `after_s` after its first fault; None before."""
    spec = row.spec
    steps = steps_of(spec)
    held = [
        (resource_of(row, index), observed.session(last_part(node.name), _EDGE))
        for index, step in enumerate(steps)
        for node in holders(state, observed, spec, step)
    ]
    problems = observed.fault_problems.get(row.name, {})
    nobody = [s for s in steps if s.fault != BAD_RELEASE and not holders(state, observed, spec, s)]
    suffering = steps if after_s is None else [s for s in steps if 0 <= after_s - offset_s(s) < duration_s(s)]
    return Sight(
        accepted=not nobody and all(resource in session.holds for resource, session in held),
        refused=next((session.refused_reason for _, session in held if session.refused_reason), ""),
        not_begun=next((f"{node}: {problems[node]}" for node in sorted(problems)), ""),
        unproven=tuple(_unproven(state, observed, row)),
        steps=tuple(_step(state, observed, row, step, index) for index, step in enumerate(steps)),
        elsewhere=_elsewhere(state, spec.hostname, suffering) if after_s is not None else fewest(state, spec),
        load_without=_load_without(state, observed, spec),
    )


def _unproven(state: State, observed: Observed, row: drill_pb2.DrillRun) -> Iterator[str]:
    """What was asked of agents and is not known to have begun, or to be undone."""
    several = len(row.spec.steps) > 1
    told = observed.faults_told.get(row.name, ())
    undone = {*row.undone, *(f"{t.node} {t.fault}" for t in told if t.kind == "FaultEnded")}
    begun = {*row.begun, *undone, *(f"{t.node} {t.fault}" for t in told if t.kind == "FaultBegan")}
    for index, step in enumerate(steps_of(row.spec)):
        for node in holders(state, observed, row.spec, step):
            fault = f"{node.name} {resource_of(row, index)}"
            where = f"step {index + 1}, " if several else ""
            if fault not in begun:
                yield f"{where}the fault was not seen to begin on {node.name}"
            elif fault not in undone:
                yield f"{where}the fault was not seen to be undone on {node.name}"


def fewest(state: State, spec: drill_pb2.DrillSpec) -> int:
    """The fewest regions that serve besides the targets at a moment of the run, by its plan."""
    steps = steps_of(spec)
    return min(_elsewhere(state, spec.hostname, [other for other in steps if overlap(step, other)]) for step in steps)


def unready(state: State, observed: Observed, spec: drill_pb2.DrillSpec) -> Iterator[str]:
    """Targets that cannot take part, with the reason."""
    for step in steps_of(spec):
        if step.fault == BAD_RELEASE:
            yield from unfit_for_release(state, step.targets[0])
            continue
        for name in step.targets:
            if not any(name in (node.name, node.region) for node in targets(state, step)):
                yield f"{name} has no node with an edge"
        asked = holders(state, observed, spec, step)
        if step.fault == SURGE and not asked:
            yield "no host outside the targets can send the requests of a surge"
        yield from _unready_nodes(observed, {node.name: node for node in [*targets(state, step), *asked]}.values())


def _unready_nodes(observed: Observed, nodes: Collection[node_pb2.Node]) -> Iterator[str]:
    for node in nodes:
        session = observed.session(last_part(node.name), _EDGE)
        if decode.condition_of(node) is not Condition.READY:
            yield f"{node.name} is {decode.condition_of(node).value}"
        elif not session.connected:
            yield f"the agent of {node.name} is not connected"
        elif session.refused_reason:
            yield f"the agent of {node.name} refuses what it is sent: {session.refused_reason}"
        elif not session.takes_faults:
            yield f"the agent of {node.name} takes no faults: its policy forbids drills, or it is too old"


def _step(
    state: State, observed: Observed, row: drill_pb2.DrillRun, step: drill_pb2.DrillStep, index: int
) -> StepSight:
    if step.fault == BAD_RELEASE:
        return _release(state, row, step, index)
    nodes = [last_part(node.name) for node in targets(state, step)]
    found = {node: observed.evidence.get(node, {}) for node in nodes}
    single = not row.spec.steps
    others = [o for o in steps_of(row.spec) if overlap(step, o) and (single or keeps_from(o, "dns"))]
    # Edges say what they saw, DNS servers what they answer by.
    dns = {vantage for by in found.values() for vantage in by if vantage[1] == node_pb2.NODE_ROLE_DNS}
    # One on a target itself is asked only where no other is left, and its host's fault leaves it alone.
    outside = {vantage for vantage in dns if _is_outside(state, vantage[0], (step, *others))}
    vantages = outside or {vantage for vantage in dns if _is_outside(state, vantage[0], others)}
    seen = {vantage: [found[node].get(vantage) for node in nodes] for vantage in vantages}
    return StepSight(
        vantages=len(vantages),
        against=sum(any(e and not (e.healthy and e.in_rotation) for e in all_) for all_ in seen.values()),
        out=sum(all(e and not e.in_rotation for e in all_) for all_ in seen.values()),
        back=sum(all(e and e.in_rotation for e in all_) for all_ in seen.values()),
    )


def _release(state: State, row: drill_pb2.DrillRun, step: drill_pb2.DrillStep, index: int) -> StepSight:
    """How the bad release fares: its rollout is to fail by itself, and to come back to the release before."""
    app = state.apps.get(step.targets[0])
    current = state.rollouts.get(app.rollout) if app is not None else None
    settled = current is None or decode.state_of(current) in TERMINAL
    mine = state.rollouts.get(row.rollouts[index + 1]) if index + 1 in row.rollouts else None
    if mine is None:
        return StepSight(rolled_back=settled)
    where = decode.state_of(mine)
    failed = mine.reason if where in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK) else ""
    return StepSight(failed_release=failed, rolled_back=where is RolloutState.ROLLED_BACK)


def _is_outside(state: State, vantage: str, steps: Collection[drill_pb2.DrillStep]) -> bool:
    node = state.nodes.get(f"nodes/{vantage}")
    return node is not None and not any(is_target(node, step) for step in steps)


def _load_without(state: State, observed: Observed, spec: drill_pb2.DrillSpec) -> float:
    """Load per processor of the hosts of edges besides the targets, if they did everything; the worst moment of the
    run."""
    hosts = [n for n in state.nodes.values() if _EDGE in n.roles and decode.condition_of(n) is Condition.READY]
    loads = {node.name: observed.session(last_part(node.name), _EDGE).heartbeat.load for node in hosts}
    steps = steps_of(spec)
    worst = 0.0
    for step in steps:
        away = {n.name for other in steps if overlap(step, other) for n in targets(state, other)}
        worst = max(worst, sum(loads.values()) / max(1, len(loads.keys() - away)))
    return worst


def _elsewhere(state: State, hostname: str, steps: Collection[drill_pb2.DrillStep]) -> int:
    """Regions with a healthy replica on another node than the targets of these steps."""
    apps = {release.manifest.name for release in apps_of(state, hostname)}
    regions = set()
    for row in state.assignments.values():
        node = state.nodes.get(row.node)
        usable = node is not None and decode.condition_of(node) is Condition.READY
        if usable and row.app in apps and row.healthy and not row.stopping:
            assert node is not None
            if not any(is_target(node, step) for step in steps):
                regions.add(node.region)
    return len(regions)
