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

from control_plane import metrics
from control_plane.apps import AppSteps
from control_plane.core.converge import is_gone
from control_plane.drills import DrillSteps
from control_plane.judging import Judging
from control_plane.observed import Observed
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
from locci.v1 import node_pb2

log = structlog.get_logger()

TICK_S: Final = 0.25
DEBOUNCE_S: Final = 0.005
TICK_MAX_S: Final = 1.0
IDLE: Final = 20.0
"""So many times as long as a look took, it rests when nothing wakes it: looks at a fleet at rest cost a twentieth."""
REST: Final = 5.0
"""So many times as long as a look took, others have their turn before the next."""
STALLED_S: Final = 1.0
"""A tick that comes so late says that this process was stopped: silence in that time says nothing of nodes."""
SESSION_SILENCE_S: Final = 30.0


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
        self._leads = leads
        self._judging = Judging(state, observed, pacing, clock, suspect_after_s)
        self._apps = AppSteps(state, observed, manifests)
        self.drills = DrillSteps(state, observed, manifests, clock, sign_report)
        self._upgrades = UpgradeSteps(state, observed)
        self._woken = woken
        self._zones_noted: tuple[int, ...] = ()
        self._failure = ""
        self._published: tuple[int, int, bool] | None = None
        self._table_changed = asyncio.Event()
        self.publication: Publication | None = None

    def wake(self) -> None:
        """Something changed: look soon."""
        self._woken.set()

    async def run(self) -> None:
        """Looks until it is cancelled. A look that fails is logged and tried again on the next tick."""
        last, taken_s, idle_s = self._steady(), 0.0, 0.0
        while True:
            tick_s, woken = min(max(TICK_S, IDLE * idle_s), TICK_MAX_S), True
            try:
                async with asyncio.timeout(tick_s):
                    await self._woken.wait()
                await self._clock.sleep(max(DEBOUNCE_S, REST * taken_s))
            except TimeoutError:
                woken = False
            self._woken.clear()
            now = self._steady()
            if now - last > STALLED_S + tick_s:
                log.warning("stalled", seconds=round(now - last, 2))
                self._observed.judged_from = max(self._observed.judged_from, now + self._suspect_after_s)
            last = now
            await self.look_safely()
            taken_s = min(self._steady() - now, STALLED_S / (2 * REST))
            idle_s = idle_s if woken else taken_s

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
        self._judging.step(batch, now)
        self._judging.note_drained(batch)
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
        tables = (self._state.zones, self._state.record_sets, self._state.dns_challenges, self._state.zone_contents)
        apps = (self._state.apps, self._state.releases)
        mark = (self._manifests.nodes.dns_changes, *(table.changes for table in (*tables, *apps)))
        if mark == self._zones_noted:
            return
        self._zones_noted = mark
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
        counts = Counter(row.healthy for row in self._state.assignments.values() if not row.stopping)
        for healthy in (True, False):
            metrics.REPLICAS.labels(str(healthy).lower()).set(counts[healthy])
        self.publication = Publication(self._state, self._observed, self._manifests, views, self._vault)
        self._hub.publish(self.publication)
        changed, self._table_changed = self._table_changed, asyncio.Event()
        changed.set()

    def next_publication(self) -> asyncio.Event:
        """Is set with the next publication."""
        return self._table_changed
