"""Drills that the fleet's agents carry out: what is seen of their targets, and each run's next step in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from control_plane import decode
from control_plane.core.drill import TERMINAL, Guards, Mark, Run, Sight, State, aborted, objections, step
from control_plane.core.drill_times import MINUTE_S, blocked_by, due
from control_plane.core.drills import Objectives
from control_plane.core.model import Condition
from control_plane.fleet_resources import cut_proven_within
from control_plane.observed import Observed
from control_plane.state import Batch
from control_plane.state import State as Store
from fleet.ids import last_part
from locci.v1 import drill_pb2, event_pb2, node_pb2

Sign = Callable[[str], bytes]
INJECTABLE: Final = frozenset(
    {
        drill_pb2.FAULT_KIND_REGION_CUT,
        drill_pb2.FAULT_KIND_NODE_CUT,
        drill_pb2.FAULT_KIND_INBOUND_CUT,
        drill_pb2.FAULT_KIND_OUTBOUND_CUT,
        drill_pb2.FAULT_KIND_LINK_LOSSY,
        drill_pb2.FAULT_KIND_LINK_SLOW,
        drill_pb2.FAULT_KIND_PROGRAM_FROZEN,
        drill_pb2.FAULT_KIND_DISK_FULL,
    }
)
"""What agents can do; a lab can do more."""
_CUTS: Final = frozenset(
    {
        drill_pb2.FAULT_KIND_REGION_CUT,
        drill_pb2.FAULT_KIND_NODE_CUT,
        drill_pb2.FAULT_KIND_INBOUND_CUT,
        drill_pb2.FAULT_KIND_OUTBOUND_CUT,
    }
)
_CLIENT_REGIONS_MAX: Final = 20
_NAME_SERVERS_MAX: Final = 8
BEGIN_WITHIN_S: Final = 15.0
_DURATION_DEFAULT_S: Final = 30.0
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


def resource_of(row: drill_pb2.DrillRun) -> str:
    """Name of the resource by which agents are asked for a run's fault."""
    _, drill, _, number = row.name.split("/")
    return f"faults/{drill}/{number}"


def clients_of(row: drill_pb2.DrillRun) -> str:
    """Name of the resource by which hosts are asked to be clients of a run."""
    _, drill, _, number = row.name.split("/")
    return f"drillclients/{drill}/{number}"


def asking(state: Store, observed: Observed, row: drill_pb2.DrillRun) -> dict[str, drill_pb2.DrillClient]:
    """By node's name, the clients that hosts outside of the targets are: one host in each region, and as many as there
    are at most. Each asks for its own region; the first also for the region of the target."""
    hosts: dict[str, node_pb2.Node] = {}
    for name, node in sorted(state.nodes.items()):
        usable = observed.session(last_part(name), node_pb2.NODE_ROLE_EDGE).asks_as_clients
        if usable and row.spec.target not in (node.name, node.region) and _is_edge(node):
            hosts.setdefault(node.region, node)
    servers = [
        next((a for a in node.addresses if ":" not in a), "")
        for node in state.nodes.values()
        if node_pb2.NODE_ROLE_DNS in node.roles
    ]
    asked: dict[str, drill_pb2.DrillClient] = {}
    for node in list(hosts.values())[:_CLIENT_REGIONS_MAX]:
        client = drill_pb2.DrillClient(run=row.name, hostname=row.spec.hostname)
        client.name_servers.extend(sorted(filter(None, servers))[:_NAME_SERVERS_MAX])
        client.askers.add(region=node.region)
        if not asked:
            for target in targets(state, row.spec)[:1]:
                # The subnet of a client is an IPv4 one here, as the answers that are asked for.
                address = next((a for a in target.addresses if ":" not in a), "")
                if address and target.region != node.region:
                    client.askers.add(region=target.region, address=address)
        asked[node.name] = client
    return asked


def _is_edge(node: node_pb2.Node) -> bool:
    return node_pb2.NODE_ROLE_EDGE in node.roles and decode.condition_of(node) is Condition.READY


def is_wanted(row: drill_pb2.DrillRun) -> bool:
    """Whether agents are to hold the fault."""
    return row.state in (drill_pb2.DrillRun.STATE_STARTING, drill_pb2.DrillRun.STATE_FAULTY)


def targets(state: Store, spec: drill_pb2.DrillSpec) -> list[node_pb2.Node]:
    """The nodes with an edge that a drill is about."""
    return [
        node
        for node in state.nodes.values()
        if spec.target in (node.name, node.region) and node_pb2.NODE_ROLE_EDGE in node.roles
    ]


def injected(row: drill_pb2.DrillRun) -> drill_pb2.InjectedFault:
    """What an agent is asked for."""
    fault = drill_pb2.InjectedFault(run=row.name, fault=row.spec.fault)
    fault.duration.CopyFrom(decode.duration(duration_s(row.spec)))
    spec = row.spec
    fault.loss_percent, fault.rate_kbit, fault.ballast_bytes = spec.loss_percent, spec.rate_kbit, spec.ballast_bytes
    fault.program = spec.program
    if spec.HasField("delay"):
        fault.delay.CopyFrom(spec.delay)
    fault.begin_before.CopyFrom(decode.timestamp(decode.seconds_of(row.create_time) + BEGIN_WITHIN_S))
    return fault


def withdraws(spec: drill_pb2.DrillSpec) -> bool:
    """Whether the fault is one that DNS servers must answer by withdrawing the target."""
    return spec.fault in _CUTS or (spec.fault == drill_pb2.FAULT_KIND_PROGRAM_FROZEN and spec.program == "edge")


def duration_s(spec: drill_pb2.DrillSpec) -> float:
    """How long the fault lasts, with the default filled in."""
    return spec.fault_duration.seconds + spec.fault_duration.nanos / 1e9 or _DURATION_DEFAULT_S


def objectives(spec: drill_pb2.DrillSpec) -> Objectives:
    """A drill's objectives, with the defaults filled in."""
    return Objectives(
        withdraw_s=spec.withdraw_objective.seconds + spec.withdraw_objective.nanos / 1e9 or 3.0,
        reroute_s=spec.reroute_objective.seconds + spec.reroute_objective.nanos / 1e9 or 10.0,
    )


def guards(spec: drill_pb2.DrillSpec) -> Guards:
    """A drill's guards, with the defaults filled in."""
    return Guards(spec.min_healthy_regions or 1, spec.max_failed_percent, spec.max_load_percent)


def new_run(state: Store, drill: drill_pb2.Drill, now: float) -> drill_pb2.DrillRun:
    """The next run of a drill, which has not begun."""
    numbers = (int(last_part(n)) for n in state.drill_runs if n.startswith(f"{drill.name}/"))
    row = drill_pb2.DrillRun(name=f"{drill.name}/runs/{1 + max(numbers, default=0)}", spec=drill.spec)
    row.create_time.CopyFrom(decode.timestamp(now))
    if (proven := cut_proven_within(state)) is not None:
        row.cut_proven_within.CopyFrom(proven)
    return row


def begin(state: Store, batch: Batch, drill: drill_pb2.Drill, who: str, now: float) -> drill_pb2.DrillRun:
    """Begins the next run of a drill, which is the caller's to change; the targets' agents are asked."""
    row = new_run(state, drill, now)
    row.state = drill_pb2.DrillRun.STATE_STARTING
    row.reason = f"{who} began it; the agents are asked"
    row.state_time.CopyFrom(decode.timestamp(now))
    drill.last_run = row.name
    batch.put(state.drill_runs, row.name, row, 0)
    batch.put(state.drills, drill.name, drill)
    message, warning = f"{who} began {row.name}", event_pb2.SEVERITY_WARNING
    batch.event("DrillRunStarting", message, row.name, drill.name, row.spec.target, severity=warning)
    return row


class DrillSteps:
    """Looks at the runs that go on, and at whether another could begin."""

    def __init__(self, state: Store, observed: Observed, sign: Sign | None):
        self._sign = sign
        self._state = state
        self._observed = observed

    def step(self, batch: Batch, now: float) -> None:
        """Takes the next step of every run."""
        rows = under_way(self._state)
        for name in self._observed.fault_problems.keys() - {row.name for row in rows}:
            del self._observed.fault_problems[name]
        for row in rows:
            before = run_of(row)
            clients = self._clients(row)
            sight = self._sight(row.spec, resource_of(row), row.name)
            after = step(before, replace(sight, **_seen_by(clients)), now)
            if after != before or clients != list(row.clients):
                put(self._state, batch, row, before, after, self._sign, clients)
        self._begin_due(batch, now)

    def _clients(self, row: drill_pb2.DrillRun) -> list[drill_pb2.DrillClientRegion]:
        """What clients have counted; one that began anew takes nothing back."""
        found = {(kept.region, kept.node): kept for kept in row.clients}
        for name in self._state.nodes:
            beat = self._observed.session(last_part(name), node_pb2.NODE_ROLE_EDGE).heartbeat
            for counts in beat.drill_clients:
                kept = found.get((counts.region, name))
                if counts.resource == clients_of(row) and (kept is None or counts.requests > kept.requests):
                    found[counts.region, name] = drill_pb2.DrillClientRegion(
                        region=counts.region,
                        node=name,
                        requests=counts.requests,
                        failed=counts.failed,
                        slow=counts.slow,
                        longest_gap=counts.longest_gap,
                        last_failure=counts.last_failure,
                    )
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
            if row.spec.fault not in INJECTABLE:
                found.append("agents do not inject its fault")
            if found:
                batch.put(self._state.drills, name, row)
                message = f"{name} was not begun by its schedule: {'; '.join(found)}"
                batch.event("DrillNotBegun", message, name, row.spec.target, severity=event_pb2.SEVERITY_WARNING)
            else:
                begin(self._state, batch, row, "its schedule", now)
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
        unready = tuple(self._unready(spec))
        sight = self._sight(spec, "")
        braked = self._observed.brake.engaged
        return list(
            objections(
                sight,
                duration_s(spec),
                busy=busy,
                braked=braked,
                unready=unready,
                guards=guards(spec),
                blocked=blocked_by(spec.blocked, now),
            )
        )

    def _unready(self, spec: drill_pb2.DrillSpec) -> Iterator[str]:
        nodes = targets(self._state, spec)
        if not nodes:
            yield f"{spec.target} has no node with an edge"
        for node in nodes:
            session = self._observed.session(last_part(node.name), node_pb2.NODE_ROLE_EDGE)
            if decode.condition_of(node) is not Condition.READY:
                yield f"{node.name} is {decode.condition_of(node).value}"
            elif not session.connected:
                yield f"the agent of {node.name} is not connected"
            elif session.refused_reason:
                yield f"the agent of {node.name} refuses what it is sent: {session.refused_reason}"
            elif not session.takes_faults:
                yield f"the agent of {node.name} takes no faults: its policy forbids drills, or it is too old"

    def _sight(self, spec: drill_pb2.DrillSpec, resource: str, run: str = "") -> Sight:
        problems = self._observed.fault_problems.get(run, {})
        nodes = [last_part(node.name) for node in targets(self._state, spec)]
        sessions = [self._observed.session(node, node_pb2.NODE_ROLE_EDGE) for node in nodes]
        found = {node: self._observed.evidence.get(node, {}) for node in nodes}
        # Edges say what they saw, DNS servers what they answer by.
        dns = {vantage for by in found.values() for vantage in by if vantage[1] == node_pb2.NODE_ROLE_DNS}
        vantages = {vantage for vantage in dns if self._is_outside(vantage[0], spec)}
        seen = {vantage: [found[node].get(vantage) for node in nodes] for vantage in vantages}
        return Sight(
            accepted=bool(sessions) and all(resource in session.holds for session in sessions),
            refused=next((session.refused_reason for session in sessions if session.refused_reason), ""),
            not_begun=next((f"{node}: {problems[node]}" for node in nodes if node in problems), ""),
            vantages=len(vantages),
            against=sum(any(e and not (e.healthy and e.in_rotation) for e in all_) for all_ in seen.values()),
            out=sum(all(e and not e.in_rotation for e in all_) for all_ in seen.values()),
            back=sum(all(e and e.in_rotation for e in all_) for all_ in seen.values()),
            elsewhere=self._elsewhere(spec, nodes),
            load_without=self._load_without(nodes),
        )

    def _load_without(self, nodes: list[str]) -> float:
        """Load per processor of the hosts of edges besides the targets, if they did everything."""
        hosts = [n for n in self._state.nodes.values() if node_pb2.NODE_ROLE_EDGE in n.roles]
        ready = [last_part(n.name) for n in hosts if decode.condition_of(n) is Condition.READY]
        loads = {node: self._observed.session(node, node_pb2.NODE_ROLE_EDGE).heartbeat.load for node in ready}
        return sum(loads.values()) / max(1, len(loads.keys() - set(nodes)))

    def _is_outside(self, vantage: str, spec: drill_pb2.DrillSpec) -> bool:
        node = self._state.nodes.get(f"nodes/{vantage}")
        return node is not None and spec.target not in (node.name, node.region)

    def _elsewhere(self, spec: drill_pb2.DrillSpec, nodes: list[str]) -> int:
        """Regions with a healthy replica on another node than the targets."""
        apps = set(self._apps_of(spec.hostname))
        regions = set()
        for row in self._state.assignments.values():
            node = self._state.nodes.get(row.node)
            usable = node is not None and decode.condition_of(node) is Condition.READY
            if usable and row.app in apps and row.healthy and not row.stopping and last_part(row.node) not in nodes:
                assert node is not None
                regions.add(node.region)
        return len(regions)

    def _apps_of(self, hostname: str) -> Iterator[str]:
        for app in self._state.apps.values():
            release = self._state.releases.get(app.target_release)
            if release is not None and hostname in release.manifest.hostnames:
                yield last_part(app.name)


def run_of(row: drill_pb2.DrillRun) -> Run:
    """A stored run as the core sees it; one that was recorded by others has ended."""
    return Run(
        state=_STATE_OF.get(row.state, State.PASSED if row.passed else State.FAILED),
        since=decode.seconds_of(row.state_time),
        duration_s=duration_s(row.spec),
        objectives=objectives(row.spec),
        withdraws=withdraws(row.spec),
        guards=guards(row.spec),
        fault_at=decode.seconds_of(row.fault_time) if row.HasField("fault_time") else None,
        marks=tuple(Mark(m.stage, m.after.seconds + m.after.nanos / 1e9, m.detail) for m in row.marks),
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
    kept = state.drill_runs.copy(row.name)
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
        kept.marks.add(stage=mark.stage, after=decode.duration(mark.after_s), detail=mark.detail)
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
        batch.event(kind, message, kept.name, drill, kept.spec.target, severity=severity)
