"""Drills that the fleet carries out by itself: each run's next step in the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from control_plane import decode
from control_plane.core.drill import TERMINAL, Mark, Run, State, aborted, objections, step
from control_plane.core.drill_samples import Sample, sampled
from control_plane.core.drill_times import MINUTE_S, blocked_by, due
from control_plane.drill_asks import clients_of
from control_plane.drill_release import step_releases
from control_plane.drill_sight import sight_of, unready
from control_plane.drill_spec import fault_steps, guards, objectives, subjects
from control_plane.fleet_resources import cut_proven_within
from control_plane.observed import Observed
from control_plane.state import Batch
from control_plane.state import State as Store
from control_plane.views import Manifests
from fleet.clock import Clock
from fleet.ids import last_part
from locci.v1 import agent_pb2, drill_pb2, event_pb2, node_pb2

RUNS_KEPT: Final = 200
"""Of each drill; what is signed can be taken out and kept elsewhere."""
Sign = Callable[[str], bytes]
_STATES: Final = {
    State.STARTING: drill_pb2.DrillRun.STATE_STARTING,
    State.FAULTY: drill_pb2.DrillRun.STATE_FAULTY,
    State.RECOVERING: drill_pb2.DrillRun.STATE_RECOVERING,
    State.PASSED: drill_pb2.DrillRun.STATE_PASSED,
    State.FAILED: drill_pb2.DrillRun.STATE_FAILED,
    State.ABORTED: drill_pb2.DrillRun.STATE_ABORTED,
}
_STATE_OF: Final = {number: state for state, number in _STATES.items()}


def under_way(state: Store) -> list[drill_pb2.DrillRun]:
    """The runs that have not ended; a drill's last run is the only one that may not have."""
    rows = (state.drill_runs.get(drill.last_run) for drill in state.drills.values() if drill.last_run)
    return [row for row in rows if row is not None and is_under_way(row)]


def is_under_way(row: drill_pb2.DrillRun) -> bool:
    """Whether a run of the agents' goes on."""
    state = _STATE_OF.get(row.state)
    return state is not None and state not in TERMINAL


def is_wanted(row: drill_pb2.DrillRun) -> bool:
    """Whether agents are to hold the faults."""
    return row.state in (drill_pb2.DrillRun.STATE_STARTING, drill_pb2.DrillRun.STATE_FAULTY)


def new_run(state: Store, observed: Observed, drill: drill_pb2.Drill, now: float) -> drill_pb2.DrillRun:
    """The next run of a drill, which has not begun."""
    numbers = (int(last_part(n)) for n in state.drill_runs if n.startswith(f"{drill.name}/"))
    row = drill_pb2.DrillRun(name=f"{drill.name}/runs/{1 + max(numbers, default=0)}", spec=drill.spec)
    row.create_time.CopyFrom(decode.timestamp(now))
    if (proven := cut_proven_within(state, observed)) is not None:
        row.cut_proven_within.CopyFrom(proven)
    return row


def forget_old(state: Store, batch: Batch, drill: str) -> None:
    """Makes room for one run more of a drill: of those that have ended the oldest go."""
    numbers = sorted(int(last_part(name)) for name in state.drill_runs if name.startswith(f"{drill}/runs/"))
    for number in numbers[: max(0, len(numbers) + 1 - RUNS_KEPT)]:
        batch.delete(state.drill_runs, f"{drill}/runs/{number}")


def begin(
    state: Store, observed: Observed, batch: Batch, drill: drill_pb2.Drill, who: str, now: float
) -> drill_pb2.DrillRun:
    """Begins the next run of a drill, which is the caller's to change; the targets' agents are asked."""
    row = new_run(state, observed, drill, now)
    row.state = drill_pb2.DrillRun.STATE_STARTING
    row.reason = f"{who} began it; the agents are asked"
    row.state_time.CopyFrom(decode.timestamp(now))
    drill.last_run = row.name
    forget_old(state, batch, drill.name)
    batch.put(state.drill_runs, row.name, row, 0)
    batch.put(state.drills, drill.name, drill)
    message, warning = f"{who} began {row.name}", event_pb2.SEVERITY_WARNING
    batch.event("DrillRunStarting", message, row.name, drill.name, *subjects(row.spec), severity=warning)
    return row


class DrillSteps:
    """Looks at the runs that go on, and at whether another could begin."""

    def __init__(self, state: Store, observed: Observed, manifests: Manifests, clock: Clock, sign: Sign | None):
        self._sign = sign
        self._state = state
        self._observed = observed
        self._manifests = manifests
        self._clock = clock

    def step(self, batch: Batch, now: float) -> None:
        """Takes the next step of every run."""
        rows = under_way(self._state)
        going_on = {row.name for row in rows}
        for name in (self._observed.fault_problems.keys() | self._observed.faults_told.keys()) - going_on:
            self._observed.fault_problems.pop(name, None)
            self._observed.faults_told.pop(name, None)
        for row in rows:
            before = run_of(row)
            after_s = now - before.fault_at if before.fault_at is not None else None
            clients = self._clients(row, after_s)
            sight = sight_of(self._state, self._observed, row, after_s)
            after = step(before, replace(sight, **_seen_by(clients)), now)
            made = self._with_words(self._releases(batch, row, after, now))
            if after != before or made is not row or clients != list(row.clients):
                put(self._state, batch, made, before, after, self._sign, clients)
        self._begin_due(batch, now)

    def _releases(self, batch: Batch, row: drill_pb2.DrillRun, after: Run, now: float) -> drill_pb2.DrillRun:
        wanted = after.state is State.FAULTY
        return step_releases(
            self._state, self._manifests, batch, row, wanted=wanted, wall_s=self._clock.wall(), now=now
        )

    def _with_words(self, row: drill_pb2.DrillRun) -> drill_pb2.DrillRun:
        """The run with what agents said of its faults: it outlives a restart of the control plane."""
        known = {(word.node, decode.seconds_of(word.time), word.text) for word in row.said}
        told = self._observed.faults_told.get(row.name, ())
        fresh = [t for t in told if (t.node, t.at, t.text) not in known]
        if not fresh:
            return row
        kept = drill_pb2.DrillRun()
        kept.CopyFrom(row)
        for one in fresh:
            kept.said.add(node=one.node, time=decode.timestamp(one.at), text=one.text)
        undone = {f"{one.node} {one.fault}" for one in fresh if one.kind == "FaultEnded"}
        begun = {f"{one.node} {one.fault}" for one in fresh if one.kind == "FaultBegan"}
        kept.undone[:] = sorted({*row.undone, *undone})
        kept.begun[:] = sorted({*row.begun, *begun, *undone})
        return kept

    def _clients(self, row: drill_pb2.DrillRun, after_s: float | None) -> list[drill_pb2.DrillClientRegion]:
        """What clients have counted, `after_s` after the first fault; one that began anew takes nothing back."""
        found = {(kept.region, kept.node): kept for kept in row.clients}
        for name in self._state.nodes:
            beat = self._observed.session(last_part(name), node_pb2.NODE_ROLE_EDGE).heartbeat
            for counts in beat.drill_clients:
                kept = found.get((counts.region, name))
                if counts.resource == clients_of(row) and (kept is None or counts.requests > kept.requests):
                    found[counts.region, name] = _counted(name, counts, kept, after_s)
        return [found[key] for key in sorted(found)]

    def _begin_due(self, batch: Batch, now: float) -> None:
        """Begins a drill whose minute it is, or says why not; one with each look, so that each sees the last."""
        for name, drill in self._state.drills.items():
            last = decode.seconds_of(drill.scheduled_time)
            if not due(drill.spec.schedule, last, now):
                continue
            row = self._state.drills.copy(name)
            row.scheduled_time.CopyFrom(decode.timestamp(now - now % MINUTE_S))
            found = self.objections(row.spec, now)
            if found:
                batch.put(self._state.drills, name, row)
                message = f"{name} was not begun by its schedule: {'; '.join(found)}"
                severity = event_pb2.SEVERITY_WARNING
                batch.event("DrillNotBegun", message, name, *subjects(row.spec), severity=severity)
            else:
                begin(self._state, self._observed, batch, row, "its schedule", now)
            return

    def abort(self, batch: Batch, name: str, reason: str, now: float) -> None:
        """Calls a run off. Raises NOT_FOUND."""
        row = self._state.drill_runs.need(name)
        before = run_of(row)
        after = aborted(before, reason, now)
        if after != before:
            put(self._state, batch, row, before, after, self._sign)

    def objections(self, spec: drill_pb2.DrillSpec, now: float) -> list[str]:
        """Why a drill must not begin now."""
        busy = next((row.name for row in under_way(self._state)), "")
        planned = drill_pb2.DrillRun(name="drills/planned/runs/1", spec=spec)
        return list(
            objections(
                sight_of(self._state, self._observed, planned, None),
                max(step.end_s for step in fault_steps(spec)),
                busy=busy,
                braked=self._observed.brake.engaged,
                unready=tuple(dict.fromkeys(unready(self._state, self._observed, spec))),
                guards=guards(spec),
                blocked=blocked_by(spec.blocked, now),
            )
        )


def run_of(row: drill_pb2.DrillRun) -> Run:
    """A stored run as the core sees it; one that was recorded by others has ended."""
    return Run(
        state=_STATE_OF.get(row.state, State.PASSED if row.passed else State.FAILED),
        since=decode.seconds_of(row.state_time),
        steps=fault_steps(row.spec),
        objectives=objectives(row.spec),
        guards=guards(row.spec),
        fault_at=decode.seconds_of(row.fault_time) if row.HasField("fault_time") else None,
        marks=tuple(Mark(m.stage, decode.span_s(m.after), m.detail, m.step) for m in row.marks),
        abort_reason=row.abort_reason,
        reason=row.reason,
        failures=tuple(row.failures),
    )


def add_signature(row: drill_pb2.DrillRun, sign: Sign) -> None:
    """Signs a run that has ended, as it is."""
    row.ClearField("signed_report")
    row.ClearField("signature")
    row.signed_report = json.dumps(MessageToDict(row, preserving_proto_field_name=True), sort_keys=True)
    row.signature = sign(row.signed_report)


def _counted(
    node: str,
    counts: agent_pb2.DrillClientCounts,
    kept: drill_pb2.DrillClientRegion | None,
    after_s: float | None,
) -> drill_pb2.DrillClientRegion:
    """What clients have counted, with a sample for the course of it."""
    row = drill_pb2.DrillClientRegion(
        region=counts.region,
        node=node,
        requests=counts.requests,
        failed=counts.failed,
        slow=counts.slow,
        longest_gap=counts.longest_gap,
        last_failure=counts.last_failure,
        resolver=counts.resolver,
    )
    samples = [Sample(decode.span_s(s.after), s.requests, s.failed) for s in (kept.samples if kept else ())]
    for sample in sampled(samples, after_s, counts.requests, counts.failed):
        row.samples.add(after=decode.duration(sample.after_s), requests=sample.requests, failed=sample.failed)
    return row


def _seen_by(clients: list[drill_pb2.DrillClientRegion]) -> dict[str, Any]:
    """The sum of what clients saw, as fields of a Sight."""
    gaps = (client.longest_gap.seconds + client.longest_gap.nanos / 1e9 for client in clients)
    return {
        "requests": sum(client.requests for client in clients),
        "failed": sum(client.failed for client in clients),
        "gap_s": max(gaps, default=0.0),
    }


def put(
    state: Store,
    batch: Batch,
    row: drill_pb2.DrillRun,
    before: Run,
    after: Run,
    sign: Sign | None = None,
    clients: list[drill_pb2.DrillClientRegion] | None = None,
) -> None:
    """Keeps a run's step, with an event when its state changed; one that has ended is signed."""
    kept = drill_pb2.DrillRun()
    kept.CopyFrom(row)
    if clients is not None:
        del kept.clients[:]
        kept.clients.extend(clients)
        kept.requests = sum(client.requests for client in clients)
        kept.failed_requests = sum(client.failed for client in clients)
    kept.state = _STATES[after.state]
    kept.state_time.CopyFrom(decode.timestamp(after.since))
    kept.reason = after.reason
    kept.abort_reason = after.abort_reason
    kept.passed = after.state is State.PASSED
    kept.failures[:] = after.failures
    if after.fault_at is not None:
        kept.fault_time.CopyFrom(decode.timestamp(after.fault_at))
    for mark in after.marks[len(before.marks) :]:
        kept.marks.add(stage=mark.stage, after=decode.duration(mark.after_s), detail=mark.detail, step=mark.step)
    if sign is not None and after.state in TERMINAL:
        add_signature(kept, sign)
    batch.put(state.drill_runs, kept.name, kept)
    if after.state is not before.state:
        drill = kept.name.rpartition("/runs/")[0]
        bad = after.state in (State.FAILED, State.ABORTED)
        severity = event_pb2.SEVERITY_ERROR if bad else event_pb2.SEVERITY_WARNING
        severity = event_pb2.SEVERITY_INFO if after.state is State.PASSED else severity
        message = f"{kept.name} is {after.state.value}: {after.reason}"
        kind = f"DrillRun{after.state.value.capitalize()}"
        batch.event(kind, message, kept.name, drill, *subjects(kept.spec), severity=severity)
