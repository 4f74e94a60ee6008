"""What nodes say, taken over: heartbeats and evidence in memory, changes of replicas in the store with their events.

What a status changes is recorded by the controller's next look, together with what other nodes said; when the store
cannot be written it is kept and recorded later, and the node's session goes on.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from control_plane import decode, metrics
from control_plane.core.latency import is_network
from control_plane.observed import FaultTold, Observed, Reported, SessionFacts
from control_plane.state import Batch, State
from control_plane.views import resource_name
from fleet.ids import last_part
from locci.v1 import agent_pb2, event_pb2, node_pb2, replica_pb2, resource_pb2

log = structlog.get_logger()

LOG_TAIL_CHARS_MAX: Final = 4_000
REASON_CHARS_MAX: Final = 1_000
EVENTS_PER_STATUS_MAX: Final = 100
EVENTS_UNRECORDED_MAX: Final = 1_000
REPLICAS_PER_NODE_MAX: Final = 5_000
ENDPOINTS_PER_VANTAGE_MAX: Final = 10_000
NETWORKS_PER_EVIDENCE_MAX: Final = 1_000
ARRIVALS_AT_ONCE: Final = 64
CONDITIONS_MAX: Final = 50

_FAULTS_TOLD_MAX: Final = 1_000
_NOT_INJECTED: Final = frozenset({"FaultRefused", "FaultFailed", "FaultSkipped"})
_OF_FAULTS: Final = _NOT_INJECTED | {"FaultBegan", "FaultEnded"}
_EVENT_TYPE = re.compile(r"[A-Z][A-Za-z]{2,60}")


@dataclass(slots=True)
class Unrecorded:
    """What a node said that is not in the store yet."""

    gone: set[str] = field(default_factory=set)
    complete: bool = False
    through: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By role, the series and the number of the last of the events."""
    events: deque[event_pb2.Event] = field(default_factory=lambda: deque(maxlen=EVENTS_UNRECORDED_MAX))


class Reports:
    """Takes over what a node's current session says. `changed` is called when something may follow from it."""

    def __init__(self, state: State, observed: Observed, steady: Callable[[], float], changed: Callable[[], None]):
        self._state = state
        self._observed = observed
        self._steady = steady
        self._changed = changed
        self._unrecorded: dict[str, Unrecorded] = {}
        self._heard: dict[tuple[str, int], tuple[str, int]] = {}

    def heard(self, node: str, role: int, wall: float) -> None:
        """Any message shows that the node lives."""
        facts = self._observed.session(node, role)
        first = facts.heard_at is None
        facts.heard_at = self._steady()
        facts.heard_wall = wall
        if first or node in self._observed.dark_since:
            self._changed()

    def status(self, node: str, role: int, status: agent_pb2.Status) -> None:
        """Replicas whose status changed, replicas that are gone, and what happened on the node."""
        facts = self._observed.session(node, role)
        facts.accepted_revision = max(facts.accepted_revision, status.accepted_revision)
        facts.applied_revision = status.applied_revision
        facts.edge_revision = max(facts.edge_revision, status.edge_revision)
        facts.confirmed = facts.confirmed or status.complete
        if status.conditions:
            self._note_conditions(facts, status)
        if role == node_pb2.NODE_ROLE_EDGE and (status.complete or status.HasField("agent_upgrade")):
            facts.agent_upgrade = _upgrade_in(status)
            self._observed.agents_said.add(node)
        pending = self._unrecorded.setdefault(node, Unrecorded())
        # The DNS server of a node knows nothing of its replicas: its whole list, which is empty, takes none away.
        if role == node_pb2.NODE_ROLE_EDGE:
            pending.gone |= self._remember(node, status)
            pending.complete = pending.complete or status.complete
        pending.events.extend(self._new_events(node, role, status)[:EVENTS_PER_STATUS_MAX])
        if status.events_through:
            pending.through[role] = (status.events_series, status.events_through)
        self._changed()

    def _note_conditions(self, facts: SessionFacts, status: agent_pb2.Status) -> None:
        """A host tells all of its conditions when one of them turns."""
        facts.conditions = {}
        for told in status.conditions[:CONDITIONS_MAX]:
            kept = node_pb2.HostCondition(type=told.type[:100], ok=told.ok, message=told.message[:REASON_CHARS_MAX])
            kept.since.CopyFrom(told.since)
            facts.conditions[kept.type] = kept
        told_by_any = [c for s in self._observed.sessions.values() for c in s.conditions.values()]
        troubles = Counter(c.type for c in told_by_any if not c.ok)
        for kind in {c.type for c in told_by_any if _EVENT_TYPE.fullmatch(c.type)}:
            metrics.HOST_TROUBLES.labels(kind).set(troubles[kind])

    def _new_events(self, node: str, role: int, status: agent_pb2.Status) -> list[event_pb2.Event]:
        """Those that were not heard before: a node tells its events again in each session until they are recorded."""
        if not status.events_through:
            return list(status.events)
        series, heard = self._heard.get((node, role), ("", 0))
        heard = heard if series == status.events_series else 0
        self._heard[node, role] = (status.events_series, max(heard, status.events_through))
        new = max(0, status.events_through - heard)
        return list(status.events)[max(0, len(status.events) - new) :]

    def take(self) -> dict[str, Unrecorded]:
        """What is to be recorded now; give it back with `restore` when that fails."""
        taken, self._unrecorded = self._unrecorded, {}
        return taken

    def restore(self, taken: dict[str, Unrecorded]) -> None:
        """Keeps for later what could not be recorded; what was said since comes after it."""
        for node, before in taken.items():
            since = self._unrecorded.get(node)
            if since is not None:
                before.gone |= since.gone
                before.complete = before.complete or since.complete
                before.events.extend(since.events)
                before.through |= since.through
            self._unrecorded[node] = before

    def record(self, batch: Batch, taken: dict[str, Unrecorded]) -> None:
        """Puts what nodes said into a transaction."""
        if not taken:
            return
        for key, row in self._state.assignments.items():
            pending = taken.get(last_part(row.node))
            if pending is not None:
                self._record(batch, key, row, pending)
        for node, pending in taken.items():
            for event in pending.events:
                self._pass_on(batch, node, event)

    def _remember(self, node: str, status: agent_pb2.Status) -> set[str]:
        """Keeps the statuses in memory; the names that are no longer on the node."""
        known = self._observed.statuses.setdefault(node, {})
        now = self._steady()
        gone = set(status.gone)
        if status.complete:
            named = {replica.resource for replica in status.replicas}
            gone |= {name for name in known if name not in named}
        for name in gone:
            known.pop(name, None)
        for replica in status.replicas[:REPLICAS_PER_NODE_MAX]:
            before = known.get(replica.resource)
            kept = replica_pb2.ReplicaStatus()
            kept.CopyFrom(replica)
            kept.log_tail = replica.log_tail[-LOG_TAIL_CHARS_MAX:]
            kept.reason = replica.reason[:REASON_CHARS_MAX]
            same = before is not None and before.status.ready == replica.ready
            known[replica.resource] = Reported(kept, before.since if before is not None and same else now)
        return gone

    def _record(self, batch: Batch, key: str, row: replica_pb2.Replica, pending: Unrecorded) -> None:
        node, name = last_part(row.node), resource_name(row)
        reported = self._observed.reported(node, name)
        absent = reported is None and (name in pending.gone or pending.complete)
        if row.stopping and absent:
            batch.delete(self._state.assignments, key)
            batch.event("ReplicaStopped", f"{row.name} is gone from node {node}", row.name, f"apps/{row.app}")
            return
        ready = reported is not None and reported.status.ready
        if ready != row.healthy and (reported is not None or absent):
            self._turn(batch, key, row, ready, reported)

    def _turn(self, batch: Batch, key: str, row: replica_pb2.Replica, ready: bool, reported: Reported | None) -> None:
        after = self._state.assignments.copy(key)
        after.healthy = ready
        batch.put(self._state.assignments, key, after)
        subjects = (row.name, f"apps/{row.app}", row.node)
        if ready:
            batch.event("ReplicaHealthy", f"{row.name} on {row.node} is healthy", *subjects)
            return
        reason = reported.status.reason if reported else "the node no longer has it"
        if row.stopping:
            return
        details = {"reason": reason, "log_tail": reported.status.log_tail if reported else ""}
        message = f"{row.name} on {row.node} is not healthy: {reason or 'no reason given'}"
        batch.event("ReplicaUnhealthy", message, *subjects, severity=event_pb2.SEVERITY_WARNING, details=details)

    def _told_of_fault(self, node: str, event: event_pb2.Event) -> None:
        run = event.subjects[0]
        # Agents that know no steps name no resource: it is that of the first.
        fault = event.details.get("resource", "") or f"faults/{'/'.join(run.split('/')[1::2])}"
        text = event.message[:REASON_CHARS_MAX]
        told = FaultTold(event.type, f"nodes/{node}", fault[:200], decode.seconds_of(event.time), text)
        known = self._observed.faults_told.setdefault(run, [])
        if told not in known and len(known) < _FAULTS_TOLD_MAX:
            known.append(told)

    def _pass_on(self, batch: Batch, node: str, event: event_pb2.Event) -> None:
        """A node's own event; only its kind, severity, subjects and words are taken."""
        if not _EVENT_TYPE.fullmatch(event.type):
            log.warning("event_ignored", node=node, reason=f"{event.type[:80]!r} is no type of event")
            return
        if event.type in _NOT_INJECTED and event.subjects and event.subjects[0] in self._state.drill_runs:
            said = self._observed.fault_problems.setdefault(event.subjects[0], {})
            said[node] = event.message[:REASON_CHARS_MAX]
        if event.type in _OF_FAULTS and event.subjects and event.subjects[0] in self._state.drill_runs:
            self._told_of_fault(node, event)
        batch.event(
            event.type,
            event.message[:REASON_CHARS_MAX],
            *[subject[:200] for subject in event.subjects[:10]],
            severity=event.severity or event_pb2.SEVERITY_INFO,
            source=f"nodes/{node}",
            details={k[:100]: event.details[k][:LOG_TAIL_CHARS_MAX] for k in sorted(event.details)[:20]},
        )

    def evidence(self, node: str, role: int, evidence: agent_pb2.Evidence) -> None:
        """What a vantage found; only a changed verdict is passed on."""
        turned = evidence.complete and self._take_back(node, role, evidence)
        self._gather(node, evidence)
        for result in evidence.results[:ENDPOINTS_PER_VANTAGE_MAX]:
            endpoint = last_part(result.endpoint)
            if f"nodes/{endpoint}" not in self._state.nodes:
                continue
            vantages = self._observed.evidence.setdefault(endpoint, {})
            before = vantages.get((node, role))
            if before is None or (before.healthy, before.in_rotation) != (result.healthy, result.in_rotation):
                vantages[node, role] = resource_pb2.EndpointEvidence(
                    vantage=f"nodes/{node}",
                    endpoint=f"nodes/{endpoint}",
                    healthy=result.healthy,
                    in_rotation=result.in_rotation,
                    reason=result.reason[:REASON_CHARS_MAX],
                )
                turned = True
        if turned:
            self._observed.evidence_changes += 1
            self._changed()

    def _take_back(self, node: str, role: int, evidence: agent_pb2.Evidence) -> bool:
        """Drops what a vantage said of endpoints that it does not name any more; whether there were any."""
        named = {last_part(result.endpoint) for result in evidence.results}
        turned = False
        for endpoint, vantages in self._observed.evidence.items():
            if endpoint not in named and vantages.pop((node, role), None) is not None:
                turned = True
        return turned

    def _gather(self, node: str, evidence: agent_pb2.Evidence) -> None:
        """Takes over what a node has measured of client networks, unless it cannot be so."""
        row = self._state.nodes.get(f"nodes/{node}")
        for found in evidence.round_trips[:NETWORKS_PER_EVIDENCE_MAX]:
            milliseconds = found.round_trip.ToMicroseconds() / 1000
            if row is not None and found.samples and 0 < milliseconds < 60_000 and is_network(found.network):
                region = last_part(row.region)
                self._observed.latencies.add(found.network, region, milliseconds, found.samples, self._steady())


def _upgrade_in(status: agent_pb2.Status) -> node_pb2.AgentUpgrade:
    """What an agent says of the version that it was told to run, within bounds."""
    said = status.agent_upgrade
    kept = node_pb2.AgentUpgrade(version=said.version[:100], request=said.request[:100])
    kept.state, kept.reason = said.state, said.reason[:REASON_CHARS_MAX]
    return kept


@dataclass(frozen=True, eq=False, slots=True)
class _Arrival:
    """A node that waits to be welcomed."""

    node: str
    hello: agent_pb2.Hello
    epoch: int
    wall: float
    noted: asyncio.Future[None]


class Arrivals:
    """Keeps each session's epoch and the host's facts in the store, before the node is welcomed.

    Nodes that come while a transaction runs are noted together with the next: a fleet that comes back at once waits for
    some transactions, not for one each. They are carried out by a task of their own, so that none of them depends on
    another that goes away.
    """

    def __init__(self, state: State):
        self._state = state
        self._waiting: list[_Arrival] = []
        self._carrying: asyncio.Task[None] | None = None

    async def note(self, node: str, hello: agent_pb2.Hello, epoch: int, wall: float) -> None:
        """Returns when it is in the store; raises UNAVAILABLE when that cannot be written."""
        mine = _Arrival(node, hello, epoch, wall, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._carrying is None:
            self._carrying = asyncio.create_task(self._carry())
        try:
            await mine.noted
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)

    async def _carry(self) -> None:
        try:
            while self._waiting:
                taken: list[_Arrival] = []
                error: Exception | None = None
                try:
                    await self._state.transact(functools.partial(self._take, taken=taken))
                except Exception as found:
                    error = found
                for arrival in taken:
                    if not arrival.noted.done():
                        arrival.noted.set_exception(error) if error else arrival.noted.set_result(None)
        finally:
            self._carrying = None
            for arrival in self._waiting:
                arrival.noted.cancel()

    def _take(self, batch: Batch, taken: list[_Arrival]) -> None:
        taken.extend(self._waiting[:ARRIVALS_AT_ONCE])
        del self._waiting[:ARRIVALS_AT_ONCE]
        rows: dict[str, node_pb2.Node] = {}
        for arrival in taken:
            self._put(batch, rows, arrival)

    def _put(self, batch: Batch, rows: dict[str, node_pb2.Node], arrival: _Arrival) -> None:
        name, hello = f"nodes/{arrival.node}", arrival.hello
        if name not in self._state.nodes:
            return
        row = rows.get(name) or rows.setdefault(name, self._state.nodes.copy(name))
        session = next((s for s in row.sessions if s.role == hello.role), None) or row.sessions.add(role=hello.role)
        again = session.epoch > 0
        session.epoch = max(arrival.epoch, session.epoch)
        session.connected = True
        session.connect_time.CopyFrom(decode.timestamp(arrival.wall))
        session.program_version = hello.program_version
        session.cut_proven_within.CopyFrom(hello.cut_proven_within)
        if hello.HasField("facts"):
            row.facts.CopyFrom(hello.facts)
        if hello.addresses:
            row.addresses[:] = hello.addresses
        batch.put(self._state.nodes, name, row)
        program = "agent" if hello.role == node_pb2.NODE_ROLE_EDGE else "DNS server"
        message = f"the {program} of node {arrival.node} is connected{' again' if again else ''}"
        batch.event("NodeConnected", message, name, row.region, details={"epoch": str(arrival.epoch)})
