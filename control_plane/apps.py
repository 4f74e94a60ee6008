"""The steps of apps, carried out on desired state: assignments, rollouts, what is stable."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from control_plane import decode, metrics
from control_plane.core.converge import Plan, Target, converge
from control_plane.core.model import DisplaceReplica, KeepReplica, LeaveReplica, StartReplica, Step, StopReplica
from control_plane.core.preview import preview
from control_plane.core.rollout import TERMINAL, AppView, Rollout, advance
from control_plane.core.rollout import State as RolloutState
from control_plane.observed import Observed
from control_plane.ports import Put
from control_plane.state import Batch, State
from control_plane.views import (
    Manifests,
    Views,
    assignment_key,
    demand_of,
    release_ref,
    rollout_view,
    with_rollout,
)
from fleet.ids import last_part
from locci.v1 import app_pb2, event_pb2, release_pb2, replica_pb2

log = structlog.get_logger()

M = TypeVar("M", bound=Message)

_ENDINGS = {
    RolloutState.SUCCEEDED: ("RolloutSucceeded", event_pb2.SEVERITY_INFO),
    RolloutState.FAILED: ("RolloutFailed", event_pb2.SEVERITY_ERROR),
    RolloutState.ROLLED_BACK: ("RolloutRolledBack", event_pb2.SEVERITY_ERROR),
    RolloutState.ROLLING_BACK: ("RolloutRollingBack", event_pb2.SEVERITY_WARNING),
    RolloutState.ABORTED: ("RolloutAborted", event_pb2.SEVERITY_WARNING),
    RolloutState.SUPERSEDED: ("RolloutSuperseded", event_pb2.SEVERITY_INFO),
}


class AppSteps:
    """Takes each app's next steps."""

    def __init__(self, state: State, observed: Observed, manifests: Manifests):
        self._state = state
        self._observed = observed
        self._manifests = manifests

    def step(self, batch: Batch, views: Views, now: float) -> None:
        """The next steps of every app, into `batch`. Trouble with one app does not hold the others up."""
        for name in list(self._observed.problems):
            if f"apps/{name}" not in self._state.apps:
                del self._observed.problems[name]
        for app in self._state.apps.values():
            mine = Batch()
            try:
                self._step_app(mine, app, views, now)
            except Exception:
                metrics.PASS_FAILURES.inc()
                log.exception("app_failed", app=app.name)
                continue
            batch.changes.extend(mine.changes)
            batch.events.extend(mine.events)

    def _step_app(self, batch: Batch, app: app_pb2.App, views: Views, now: float) -> None:
        row = self._state.rollouts.get(app.rollout)
        target = self._state.releases.need(app.target_release)
        manifest = views.patient(app, self._manifests.of(target))
        view = views.app(app, manifest)
        rollout: Rollout | None = None
        if row is not None:
            if row.prefetching:
                if not row.prefetch_nodes and self._choose_prefetch(batch, app, row, views):
                    return
                view = replace(view, unfetched=views.unfetched(row, target.pinned_image))
            before = rollout_view(row, self._releases(app), self._observed.judged_from)
            rollout = advance(before, view, now)
            if rollout != before or row.wanted != len(view.slots):
                self._write_rollout(batch, app, row, before, rollout, len(view.slots), now)
            if rollout.heading != before.heading:
                # The manifest is another one now: the steps follow with the next look.
                return
        args = (release_ref(target), rollout, manifest.placement, views.ledger, demand_of(manifest))
        plan = converge(view, Target(*args, app.rebalance_moves), now)
        self._note_problems(batch, app, plan)
        for step in plan.steps:
            self._carry_out(batch, app, view, step, now)
        self._note_balance(batch, app, plan)

    def _choose_prefetch(self, batch: Batch, app: app_pb2.App, row: release_pb2.Rollout, views: Views) -> bool:
        """Chooses the nodes that are to pull the image first: where replicas would go now. Whether there are any."""
        release = self._state.releases.need(row.to_release)
        manifest = self._manifests.of(release)
        view = views.app(app, manifest)
        # In thought: the ledger of this look is not to know of it.
        ledger = Views(self._state, self._observed, self._manifests, 0.0).ledger
        changes = preview(view, release_ref(release), manifest.placement, ledger, demand_of(manifest))
        nodes = sorted({change.node for change in changes if change.action in ("start", "replace")} - {""})
        chosen = [node for node in nodes if views.takes_images(node)]
        if not chosen:
            return False
        changed = self._state.rollouts.copy(row.name)
        changed.prefetch_nodes[:] = [f"nodes/{node}" for node in chosen]
        batch.put(self._state.rollouts, row.name, changed)
        return True

    def _releases(self, app: app_pb2.App) -> dict[str, release_pb2.Release]:
        names = self._state.rollouts.need(app.rollout)
        found = (self._state.releases.get(name) for name in (names.from_release, names.to_release))
        return {release.name: release for release in found if release is not None}

    def _write_rollout(
        self,
        batch: Batch,
        app: app_pb2.App,
        row: release_pb2.Rollout,
        before: Rollout,
        after: Rollout,
        wanted: int,
        now: float,
    ) -> None:
        changed = with_rollout(row, before, after, now)
        changed.wanted = wanted
        batch.put(self._state.rollouts, row.name, changed)
        if after.state is before.state or after.state not in _ENDINGS:
            return
        if after.state in TERMINAL:
            metrics.ROLLOUTS.labels(after.state.value).inc()
        kind, severity = _ENDINGS[after.state]
        message = f"{row.name} to release {after.target.number}: {after.reason.partition(chr(10))[0]}"
        batch.event(kind, message, row.name, app.name, severity=severity, details={"reason": after.reason})
        log.info("rollout", rollout=row.name, state=after.state.value, reason=after.reason.partition("\n")[0])
        if after.state in (RolloutState.SUCCEEDED, RolloutState.ROLLING_BACK):
            self._turn_app(batch, app, row, after)

    def _turn_app(self, batch: Batch, app: app_pb2.App, row: release_pb2.Rollout, after: Rollout) -> None:
        changed = self._state.apps.copy(app.name)
        if after.state is RolloutState.SUCCEEDED:
            changed.stable_release = row.to_release
        else:
            changed.target_release = row.from_release
        batch.put(self._state.apps, app.name, changed)

    def _note_problems(self, batch: Batch, app: app_pb2.App, plan: Plan) -> None:
        app_id = last_part(app.name)
        before = self._observed.problems.get(app_id, ())
        self._observed.problems[app_id] = plan.problems
        for problem in plan.problems:
            if problem not in before:
                batch.event("ReplicaUnplaceable", problem, app.name, severity=event_pb2.SEVERITY_WARNING)

    def _note_balance(self, batch: Batch, app: app_pb2.App, plan: Plan) -> None:
        """Ends a rebalance that has nothing left to move, or whose move failed."""
        stays = next((s for s in plan.steps if isinstance(s, KeepReplica) and s.replica.leaving), None)
        if not app.rebalance_moves or not (plan.balanced or stays):
            return
        changed = _put_in(batch, app.name, app_pb2.App) or self._state.apps.copy(app.name)
        changed.rebalance_moves = 0
        batch.put(self._state.apps, app.name, changed)
        if stays is not None:
            message = f"{app.name}: rebalancing is given up: {stays.reason}"
            batch.event("RebalanceEnded", message, app.name, severity=event_pb2.SEVERITY_WARNING)
        else:
            batch.event("RebalanceEnded", f"{app.name} is balanced", app.name)

    # -- steps

    def _carry_out(self, batch: Batch, app: app_pb2.App, view: AppView, step: Step, now: float) -> None:
        table = self._state.assignments
        if isinstance(step, StartReplica):
            row = self._assignment(view.name, step, now)
            batch.put(table, assignment_key(view.name, step.ordinal, step.release.number, step.node), row, 0)
            message = f"{row.name} is placed on node {step.node}: {step.reason}"
            batch.event("ReplicaPlaced", message, row.name, app.name, row.node, row.region)
            return
        replica = step.replica
        key = assignment_key(view.name, replica.ordinal, replica.release, replica.node)
        row = _put_in(batch, key, replica_pb2.Replica) or table.copy(key)
        match step:
            case StopReplica():
                row.stopping = True
                kind, what = "ReplicaStopping", "stops"
            case DisplaceReplica():
                row.displaced = True
                if view.singleton:
                    self._observed.given_away.add(key)
                kind, what = "ReplicaDisplaced", "is replaced elsewhere"
            case LeaveReplica():
                row.leaving = True
                kind, what = "ReplicaLeaving", "moves elsewhere"
            case KeepReplica():
                kind, what = "ReplicaKept", "stays" if row.leaving else "counts again"
                row.displaced = row.leaving = False
        batch.put(table, key, row)
        message = f"{row.name} on node {replica.node} {what}: {step.reason}"
        batch.event(kind, message, row.name, app.name, row.node)

    def _assignment(self, app_id: str, step: StartReplica, now: float) -> replica_pb2.Replica:
        return replica_pb2.Replica(
            name=f"apps/{app_id}/replicas/{step.ordinal}-{step.release.number}",
            app=app_id,
            ordinal=step.ordinal,
            release=step.release.number,
            region=f"regions/{step.region}",
            node=f"nodes/{step.node}",
            spec_hash=step.release.spec_hash,
            assign_time=decode.timestamp(now),
        )


def _put_in(batch: Batch, name: str, message: type[M]) -> M | None:
    """What the transaction itself writes under a name."""
    return next(
        (message.FromString(c.body) for c in reversed(batch.changes) if isinstance(c, Put) and c.name == name), None
    )
