"""The controller: looks at the fleet as it is, takes the next steps in one transaction, and publishes the result.

Level-triggered: it looks again when something changed, and on a tick for deadlines. It keeps no script.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
from google.protobuf.wrappers_pb2 import StringValue

from control_plane import decode, metrics
from control_plane.apps import AppSteps
from control_plane.core import brake as brakes
from control_plane.core.brake import Sight
from control_plane.core.converge import is_gone
from control_plane.core.liveness import Judgement, Silence, judge
from control_plane.core.model import Condition
from control_plane.drills import DrillSteps
from control_plane.observed import Observed, SessionFacts
from control_plane.pacing import Pacing
from control_plane.ports import Vault
from control_plane.reports import Reports, Unrecorded
from control_plane.resources import Publication
from control_plane.sessions import Hub
from control_plane.state import Batch, State
from control_plane.upgrades import UpgradeSteps
from control_plane.views import Assigned, Manifests, Views, resource_name
from fleet.clock import Clock
from fleet.errors import LocciError
from fleet.ids import last_part
from locci.v1 import event_pb2, node_pb2

log = structlog.get_logger()

TICK_S: Final = 0.25
DEBOUNCE_S: Final = 0.005
REST: Final = 5.0
"""So many times as long as a look took, others have their turn before the next."""
STALLED_S: Final = 1.0
"""A tick that comes so late says that this process was stopped: silence in that time says nothing of nodes."""
SESSION_SILENCE_S: Final = 30.0
_NODES: Final = len("nodes/")

_SEVERITIES: Final = {
    Condition.READY: event_pb2.SEVERITY_INFO,
    Condition.SUSPECT: event_pb2.SEVERITY_WARNING,
    Condition.LOST: event_pb2.SEVERITY_ERROR,
}


class Controller:
    """One loop over the whole fleet."""

    def __init__(
        self,
        state: State,
        observed: Observed,
        manifests: Manifests,
        hub: Hub,
        reports: Reports,
        woken: asyncio.Event,
        vault: Vault,
        clock: Clock,
        steady: Callable[[], float],
        *,
        suspect_after_s: float,
        pacing: Pacing,
        sign_report: Callable[[str], bytes] | None = None,
        leads: Callable[[], bool] = lambda: True,
    ):
        """`leads` says whether it may act at this moment; of several control planes only one may."""
        self._state = state
        self._observed = observed
        self._manifests = manifests
        self._hub = hub
        self._reports = reports
        self._vault = vault
        self._clock = clock
        self._steady = steady
        self._suspect_after_s = suspect_after_s
        self._pacing = pacing
        self._leads = leads
        self._apps = AppSteps(state, observed, manifests)
        self.drills = DrillSteps(state, observed, manifests, clock, sign_report)
        self._upgrades = UpgradeSteps(state, observed)
        self._woken = woken
        self._zones_noted = -1
        self._failure = ""
        self._published: tuple[int, int, bool] | None = None
        self._table_changed = asyncio.Event()
        self.publication: Publication | None = None

    def wake(self) -> None:
        """Something changed: look soon."""
        self._woken.set()

    async def run(self) -> None:
        """Looks until it is cancelled. A look that fails is logged and tried again on the next tick."""
        last, taken_s = self._steady(), 0.0
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
                await self._clock.sleep(max(DEBOUNCE_S, REST * taken_s))
            except TimeoutError:
                pass
            self._woken.clear()
            now = self._steady()
            if now - last > STALLED_S + TICK_S:
                log.warning("stalled", seconds=round(now - last, 2))
                self._observed.judged_from = max(self._observed.judged_from, now + self._suspect_after_s)
            last = now
            await self.look_safely()
            taken_s = min(self._steady() - now, STALLED_S / (2 * REST))

    async def look_safely(self) -> None:
        """One look; its failure is counted and logged, never raised."""
        try:
            with metrics.PASS_SECONDS.time():
                await self.look()
            self._failure = ""
        except LocciError as error:
            metrics.PASS_FAILURES.inc()
            if error.message != self._failure:
                # Said once, not with every tick, while the store is out of order.
                log.error("pass_failed", reason=error.message)
            self._failure = error.message
        except Exception:
            metrics.PASS_FAILURES.inc()
            log.exception("pass_failed")

    async def look(self) -> None:
        """Judges nodes, takes the next steps of every app, and publishes."""
        if not self._leads():
            return
        now = self._steady()
        said = self._reports.take()
        try:
            stepped = await self._state.transact(lambda batch: self._build(batch, said, now))
        except BaseException:
            self._reports.restore(said)
            raise
        finally:
            self._observed.given_away.clear()
        self._hub.events_recorded({(node, role): t for node, u in said.items() for role, t in u.through.items()})
        if stepped:
            self.wake()
        self._hub.end_silent(SESSION_SILENCE_S)
        self._hub.retry_refused()
        if self._leads():
            self._publish(now)

    def _build(self, batch: Batch, said: dict[str, Unrecorded], now: float) -> bool:
        self._reports.record(batch, said)
        self._judge_nodes(batch, now)
        self._note_drained(batch)
        self.drills.step(batch, now)
        views = Views(self._state, self._observed, self._manifests, now)
        self._forget(batch, views, now)
        if not batch:
            self._upgrades.step(batch, now)
        if not batch:
            # Steps follow from the fleet as it is stored: what was just found out comes first, they with the next look.
            self._apps.step(batch, views, now)
            self._note_zones(batch, views)
        return bool(batch)

    # -- nodes

    def _judge_nodes(self, batch: Batch, now: float) -> None:
        conditions: Counter[str] = Counter()
        for name, node in self._state.nodes.items():
            node_id = name[_NODES:]
            if self._is_as_before(node, node_id, now):
                conditions[Condition.READY.value] += 1
                continue
            after = self._judge(node, node_id, now)
            condition = after.condition if after else decode.condition_of(node)
            conditions[condition.value] += 1
            self._note_dark(node_id, condition, now)
            self._write_node(batch, node, node_id, after, now)
        for known in Condition:
            metrics.NODES.labels(known.value).set(conditions[known.value])
        self._step_brake(batch, now)
        self._drop_stale_vantages(now)

    def _is_as_before(self, node: node_pb2.Node, node_id: str, now: float) -> bool:
        """Whether there is nothing to judge: it is ready, was heard in time, and every session that is stored stands.
        Nearly every node of a large fleet is so nearly always."""
        if node.condition != node_pb2.NODE_CONDITION_READY or node_id in self._observed.dark_since:
            return False
        for session in node.sessions:
            facts = self._observed.sessions.get((node_id, session.role))
            if facts is None or not facts.connected or facts.heard_at is None:
                return False
            if now - facts.heard_at >= self._suspect_after(facts):
                return False
        return bool(node.sessions)

    def _note_drained(self, batch: Batch) -> None:
        """A draining node that holds nothing more is said to be empty, once."""
        draining = [n for n in self._state.nodes.values() if n.condition == node_pb2.NODE_CONDITION_DRAINING]
        if not draining:
            return
        held = {row.node for row in self._state.assignments.values()}
        for node in draining:
            if node.name not in held and node.HasField("drain_deadline_time"):
                row = self._state.nodes.copy(node.name)
                row.ClearField("drain_deadline_time")
                row.condition_reason = "drained: it holds no replica and can be taken down"
                batch.put(self._state.nodes, row.name, row)
                batch.event("NodeDrained", f"{row.name} is drained and can be taken down", row.name, row.region)

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

    def _write_node(self, batch: Batch, node: node_pb2.Node, node_id: str, after: Judgement | None, now: float) -> None:
        sessions = {s.role: s for s in node.sessions}
        left = [
            role
            for role, session in sessions.items()
            if session.connected
            and not self._observed.session(node_id, role).connected
            and now >= self._observed.judged_from
        ]
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

    def _step_brake(self, batch: Batch, now: float) -> None:
        if not self._observed.dark_since and not self._observed.brake.engaged:
            return
        known = (Condition.READY, Condition.SUSPECT, Condition.LOST)
        sights = [
            Sight(last_part(node.name), last_part(node.region), self._observed.dark_since.get(last_part(node.name)))
            for node in self._state.nodes.values()
            if decode.condition_of(node) in known
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

    def may_run(self, key: str) -> bool:
        """Whether a node may go on to run the singleton of an assignment. Asked at the moment of the answer: from the
        decision to give it away on it may not, though the decision is not yet in the store."""
        row = self._state.assignments.get(key)
        return (
            self._leads()
            and row is not None
            and not (row.stopping or row.displaced or key in self._observed.given_away)
        )

    # -- what nobody reports any more

    def _forget(self, batch: Batch, views: Views, now: float) -> None:
        """Assignments of nodes that are gone for good, and stopping ones that their node never held."""
        for assigned in [a for held in views.by_node.values() for a in held]:
            if batch.removes(self._state.assignments, assigned.key):
                continue
            node = self._state.nodes.get(assigned.row.node)
            if now < assigned.view.fence_until:
                continue
            if is_gone(views.nodes.get(assigned.view.node)):
                why = "was removed" if node is None else "is revoked"
            elif assigned.row.stopping and self._never_held(assigned):
                why = "never held it"
            else:
                continue
            batch.delete(self._state.assignments, assigned.key)
            row = assigned.row
            message = f"{row.name} is gone: {row.node} {why}"
            batch.event("ReplicaStopped", message, row.name, f"apps/{row.app}", row.node)

    def _never_held(self, assigned: Assigned) -> bool:
        session = self._observed.session(assigned.view.node, node_pb2.NODE_ROLE_EDGE)
        name = resource_name(assigned.row)
        unknown = self._observed.reported(assigned.view.node, name) is None
        answered = session.connected and session.confirmed and not session.unanswered
        return answered and unknown and name not in session.holds

    # -- publication

    def _note_zones(self, batch: Batch, views: Views) -> None:
        """A zone whose content changed gets a new serial: the revision of this transaction."""
        if self._state.revision == self._zones_noted:
            return
        self._zones_noted = self._state.revision
        publication = Publication(self._state, self._observed, self._manifests, views)
        hashes = publication.zone_hashes()
        for origin, digest in hashes.items():
            known = self._state.zone_contents.get(origin)
            if known is None or known.value != digest:
                batch.put(self._state.zone_contents, origin, StringValue(value=digest))
        for origin in self._state.zone_contents:
            if origin not in hashes:
                batch.delete(self._state.zone_contents, origin)

    def _publish(self, now: float) -> None:
        mark = (self._state.revision, self._observed.evidence_changes, self._observed.brake.engaged)
        if mark == self._published:
            return
        self._published = mark
        metrics.REVISION.set(self._state.revision)
        views = Views(self._state, self._observed, self._manifests, now)
        for healthy in (True, False):
            count = sum(1 for row in self._state.assignments.values() if row.healthy == healthy and not row.stopping)
            metrics.REPLICAS.labels(str(healthy).lower()).set(count)
        self.publication = Publication(self._state, self._observed, self._manifests, views, self._vault)
        self._hub.publish(self.publication)
        changed, self._table_changed = self._table_changed, asyncio.Event()
        changed.set()

    def next_publication(self) -> asyncio.Event:
        """Is set with the next publication."""
        return self._table_changed
