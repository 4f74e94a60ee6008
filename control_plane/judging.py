"""Judges nodes by what is heard of them: ready, suspect, lost; and takes the brake when many go dark at once.

A node of which nothing but the time of its last word has changed needs no judgement before it can have been silent for
too long. So a look at a large fleet at rest costs next to nothing, and one after a change costs by what has changed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import structlog

from control_plane import decode, metrics
from control_plane.core import brake as brakes
from control_plane.core.brake import Sight
from control_plane.core.liveness import Judgement, Silence, judge
from control_plane.core.model import Condition
from control_plane.observed import Observed, SessionFacts
from control_plane.pacing import Pacing
from control_plane.state import Batch, State
from fleet.clock import Clock
from fleet.ids import last_part
from locci.v1 import event_pb2, node_pb2

log = structlog.get_logger()

DISCONNECTS_AT_ONCE: Final = 512
"""So many ended streams are noted with one look; of a fleet that went away at once most are back before their turn."""
_NODES: Final = len("nodes/")
_ON_THE_BRAKE: Final = (Condition.READY, Condition.SUSPECT, Condition.LOST)
_SEVERITIES: Final = {
    Condition.READY: event_pb2.SEVERITY_INFO,
    Condition.SUSPECT: event_pb2.SEVERITY_WARNING,
    Condition.LOST: event_pb2.SEVERITY_ERROR,
}


class Judging:
    """The conditions of all nodes; keeps of each look only what saves work with the next."""

    def __init__(self, state: State, observed: Observed, pacing: Pacing, clock: Clock, suspect_after_s: float):
        self._state = state
        self._observed = observed
        self._pacing = pacing
        self._clock = clock
        self._suspect_after_s = suspect_after_s
        self._changes = -1
        """Changes of the table of nodes that were looked at."""
        self._open: set[str] = set()
        """Names of nodes that are to be judged with every look."""
        self._all_due_at = -math.inf
        """On the steady clock: none of the others can have been silent for too long before that."""
        self._conditions: dict[str, Condition] = {}
        self._counts: Counter[Condition] = Counter()
        self._disconnects = 0

    def step(self, batch: Batch, now: float) -> None:
        """Changes of condition, ended streams and the brake, into `batch`."""
        self._disconnects = 0
        for name in self._due(now):
            self._look_at(batch, name, now)
        for known in Condition:
            metrics.NODES.labels(known.value).set(self._counts[known])
        self._step_brake(batch, now)
        self._drop_stale_vantages(now)

    def _due(self, now: float) -> Iterable[str]:
        """The names of the nodes to judge now, in order."""
        changed = self._state.nodes.since(self._changes) if now < self._all_due_at else None
        self._changes = self._state.nodes.changes
        touched, self._observed.touched = self._observed.touched, set()
        if changed is None:
            self._all_due_at, self._open = math.inf, set()
            for name in self._conditions.keys() - set(self._state.nodes):
                self._count(name, None)
            return list(self._state.nodes)
        dark = self._observed.dark_since
        names = changed | self._open | {f"nodes/{node}" for node in touched} | {f"nodes/{node}" for node in dark}
        return sorted(names)

    def _look_at(self, batch: Batch, name: str, now: float) -> None:
        node = self._state.nodes.get(name)
        if node is None:
            self._open.discard(name)
            self._count(name, None)
            return
        node_id = name[_NODES:]
        if self._is_as_before(node, node_id, now):
            self._open.discard(name)
            self._count(name, Condition.READY)
            return
        self._open.add(name)
        after = self._judge(node, node_id, now)
        condition = after.condition if after else decode.condition_of(node)
        self._count(name, condition)
        self._note_dark(node_id, condition, now)
        self._write(batch, node, node_id, after, now)

    def _count(self, name: str, condition: Condition | None) -> None:
        before = self._conditions.get(name)
        if before is condition:
            return
        if before is not None:
            self._counts[before] -= 1
        if condition is None:
            del self._conditions[name]
        else:
            self._conditions[name] = condition
            self._counts[condition] += 1

    def _is_as_before(self, node: node_pb2.Node, node_id: str, now: float) -> bool:
        """Whether there is nothing to judge: it is ready, was heard in time, and every session that is stored stands.
        Nearly every node of a large fleet is so nearly always."""
        if node.condition != node_pb2.NODE_CONDITION_READY or node_id in self._observed.dark_since:
            return False
        due_at = math.inf
        for session in node.sessions:
            facts = self._observed.sessions.get((node_id, session.role))
            if facts is None or not facts.connected or facts.heard_at is None:
                return False
            due_at = min(due_at, facts.heard_at + self._suspect_after(facts))
        if not node.sessions or now >= due_at:
            return False
        self._all_due_at = min(self._all_due_at, due_at)
        return True

    def _judge(self, node: node_pb2.Node, node_id: str, now: float) -> Judgement | None:
        session = self._observed.leading(node, node_id)
        suspect_after_s = self._suspect_after(session)
        silence = Silence(session.heard_at if session else None, self._observed.judged_from)
        return judge(
            decode.condition_of(node),
            silence,
            now,
            suspect_after_s=suspect_after_s,
            lost_after_s=max(self._pacing.patience(node_id).lost_after_s, suspect_after_s),
            program="agent" if node_pb2.NODE_ROLE_EDGE in node.roles else "DNS server",
        )

    def _suspect_after(self, session: SessionFacts | None) -> float:
        """A node that was told to beat slower is silent for longer before that says anything."""
        return self._suspect_after_s * self._pacing.pace.stretch(session.heartbeat_s if session is not None else 0.0)

    def _note_dark(self, node_id: str, condition: Condition, now: float) -> None:
        if condition in (Condition.SUSPECT, Condition.LOST):
            self._observed.dark_since.setdefault(node_id, now)
        else:
            self._observed.dark_since.pop(node_id, None)

    def _left(self, node: node_pb2.Node, node_id: str, now: float) -> list[node_pb2.NodeRole.ValueType]:
        """The roles whose stream has ended and is not noted as ended; empty when others have their turn first."""
        if now < self._observed.judged_from:
            return []
        left = [s.role for s in node.sessions if s.connected and not self._observed.session(node_id, s.role).connected]
        if left and self._disconnects >= DISCONNECTS_AT_ONCE:
            return []
        self._disconnects += len(left)
        return left

    def _write(self, batch: Batch, node: node_pb2.Node, node_id: str, after: Judgement | None, now: float) -> None:
        left = self._left(node, node_id, now)
        if after is None and not left:
            return
        row = self._state.nodes.copy(node.name)
        for session in row.sessions:
            if session.role in left:
                session.connected = False
                batch.event("NodeDisconnected", f"a stream of node {node_id} ended", node.name, node.region)
        if after is not None:
            row.condition = decode.CONDITIONS[after.condition]
            row.condition_reason = after.reason
            row.condition_time.CopyFrom(decode.timestamp(self._clock.wall()))
            kind = f"Node{after.condition.value.capitalize()}"
            message = f"node {node_id} is {after.condition.value}: {after.reason}"
            severity = _SEVERITIES.get(after.condition, event_pb2.SEVERITY_INFO)
            batch.event(kind, message, node.name, node.region, severity=severity)
            log.info("node_condition", node=node_id, condition=after.condition.value, reason=after.reason)
        batch.put(self._state.nodes, node.name, row)

    def note_drained(self, batch: Batch) -> None:
        """A draining node that holds nothing more is said to be empty, once."""
        if not self._counts[Condition.DRAINING]:
            return
        draining = [n for n in self._state.nodes.values() if n.condition == node_pb2.NODE_CONDITION_DRAINING]
        held = {row.node for row in self._state.assignments.values()}
        for node in draining:
            if node.name not in held and node.HasField("drain_deadline_time"):
                row = self._state.nodes.copy(node.name)
                row.ClearField("drain_deadline_time")
                row.condition_reason = "drained: it holds no replica and can be taken down"
                batch.put(self._state.nodes, row.name, row)
                batch.event("NodeDrained", f"{row.name} is drained and can be taken down", row.name, row.region)

    def _step_brake(self, batch: Batch, now: float) -> None:
        if not self._observed.dark_since and not self._observed.brake.engaged:
            return
        sights = [
            Sight(last_part(node.name), last_part(node.region), self._observed.dark_since.get(last_part(node.name)))
            for node in self._state.nodes.values()
            if decode.condition_of(node) in _ON_THE_BRAKE
        ]
        before, after = self._observed.brake, brakes.step(self._observed.brake, sights, now)
        self._observed.brake = after
        metrics.BRAKE.set(after.engaged)
        if after.engaged == before.engaged:
            return
        kind = "BrakeEngaged" if after.engaged else "BrakeReleased"
        what = "nothing is rescheduled" if after.engaged else "rescheduling goes on"
        severity = event_pb2.SEVERITY_ERROR if after.engaged else event_pb2.SEVERITY_INFO
        batch.event(kind, f"{after.reason}: {what}", severity=severity)
        log.warning("brake", engaged=after.engaged, reason=after.reason)

    def _drop_stale_vantages(self, now: float) -> None:
        """Evidence of a vantage that has been silent for long is no evidence any more."""
        for vantages in self._observed.evidence.values():
            for vantage in list(vantages):
                session = self._observed.session(*vantage)
                if session.heard_at is None or now - session.heard_at > self._pacing.idle.lost_after_s:
                    del vantages[vantage]
                    self._observed.evidence_changes += 1
