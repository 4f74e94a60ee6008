"""Releases and rollouts: looked at, followed, taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from control_plane import decode, metrics, secret_values
from control_plane.core.rollout import TERMINAL, Rollout, State, turn_back
from control_plane.services import listing
from control_plane.services.apps import begin_rollout
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from control_plane.views import rollout_view, with_rollout
from fleet.errors import LocciError, failed_precondition
from fleet.ids import last_part, parse
from locci.v1 import app_pb2, event_pb2, release_pb2

_WATCH_S: Final = 15.0


class ReleaseService:
    """Implements `locci.v1.ReleaseService`."""

    def __init__(self, context: Context):
        self._state = context.state

    async def list_releases(
        self, request: release_pb2.ListReleasesRequest, caller: Caller
    ) -> release_pb2.ListReleasesResponse:
        parse(request.parent, "apps/*", "parent")
        self._state.apps.need(request.parent)
        prefix = f"{request.parent}/releases/"
        rows = [(listing.number_key(r.number), r) for n, r in self._state.releases.items() if n.startswith(prefix)]
        chosen, token = listing.page(request, sorted(rows, key=lambda row: row[0], reverse=True), descending=True)
        return release_pb2.ListReleasesResponse(releases=chosen, next_page_token=token)

    async def get_release(self, request: release_pb2.GetReleaseRequest, caller: Caller) -> release_pb2.Release:
        parse(request.name, "apps/*/releases/*")
        return self._state.releases.need(request.name)


class RolloutService:
    """Implements `locci.v1.RolloutService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_rollouts(
        self, request: release_pb2.ListRolloutsRequest, caller: Caller
    ) -> release_pb2.ListRolloutsResponse:
        parse(request.parent, "apps/*", "parent")
        self._state.apps.need(request.parent)
        prefix = f"{request.parent}/rollouts/"
        rows = [
            (listing.number_key(int(last_part(name))), row)
            for name, row in self._state.rollouts.items()
            if name.startswith(prefix)
        ]
        chosen, token = listing.page(request, sorted(rows, key=lambda row: row[0], reverse=True), descending=True)
        return release_pb2.ListRolloutsResponse(rollouts=chosen, next_page_token=token)

    async def get_rollout(self, request: release_pb2.GetRolloutRequest, caller: Caller) -> release_pb2.Rollout:
        parse(request.name, "apps/*/rollouts/*")
        return self._state.rollouts.need(request.name)

    async def watch_rollout(
        self, request: release_pb2.GetRolloutRequest, caller: Caller
    ) -> AsyncIterator[release_pb2.Rollout]:
        parse(request.name, "apps/*/rollouts/*")
        seen = -1
        while True:
            row = self._state.rollouts.need(request.name)
            if row.revision != seen:
                seen = row.revision
                yield row
            if decode.state_of(row) in TERMINAL:
                return
            if self._state.rollouts.revision(request.name) == seen:
                await self._state.wait_change(_WATCH_S)

    async def rollback_app(self, request: release_pb2.RollbackAppRequest, caller: Caller) -> release_pb2.Rollout:
        async def act() -> release_pb2.Rollout:
            parse(request.name, "apps/*")

            def build(batch: Batch) -> release_pb2.Rollout:
                app = self._state.apps.copy(request.name)
                release = self.chosen(app, request.release)
                secret_values.require(self._state, release.manifest.secrets)
                reason = f"{caller.principal} asked to go back to release {release.number}"
                return begin_rollout(self._context, batch, app, release, reason)

            if request.validate_only:
                return build(Batch())
            return self._state.rollouts.need((await self._context.change(build)).name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def chosen(self, app: app_pb2.App, asked: str) -> release_pb2.Release:
        """The release that a rollback goes to. Raises FAILED_PRECONDITION when there is none."""
        if asked:
            parse(asked, "apps/*/releases/*", "release")
            release = self._state.releases.need(asked)
            if not asked.startswith(f"{app.name}/"):
                raise failed_precondition("OTHER_APP", f"{asked} is no release of {app.name}")
            if asked == app.target_release:
                raise failed_precondition("ALREADY_THERE", f"{app.name} is on {asked} already")
            return release
        good = {
            row.to_release
            for row in self._state.rollouts.values()
            if row.name.startswith(f"{app.name}/") and row.state == release_pb2.ROLLOUT_STATE_SUCCEEDED
        }
        current = self._state.releases.need(app.target_release)
        earlier = [
            found
            for name in good
            if (found := self._state.releases.get(name)) is not None and found.number < current.number
        ]
        if not earlier:
            message = f"{app.name} has no good release before {current.number}; name one with release"
            raise failed_precondition("NO_EARLIER_RELEASE", message)
        return max(earlier, key=lambda release: release.number)

    async def abort_rollout(self, request: release_pb2.AbortRolloutRequest, caller: Caller) -> release_pb2.Rollout:
        parse(request.name, "apps/*/rollouts/*")

        def build(batch: Batch) -> None:
            row = self._state.rollouts.need(request.name)
            if decode.state_of(row) in TERMINAL:
                message = f"{request.name} has ended already ({decode.state_of(row).value})"
                raise failed_precondition("ROLLOUT_ENDED", message)
            now = self._context.steady()
            names = (row.from_release, row.to_release)
            releases = {r.name: r for n in names if (r := self._state.releases.get(n)) is not None}
            before = rollout_view(row, releases, 0.0)
            after = turn_back(before, f"{caller.principal} ended it", now, automatic=False)
            if after == before:
                raise failed_precondition("ROLLING_BACK", f"{request.name} is on its way back already")
            batch.put(self._state.rollouts, row.name, with_rollout(row, before, after, now))
            app = self._state.apps.copy(row.name.partition("/rollouts/")[0])
            if after.state is State.ROLLING_BACK:
                app.target_release = row.from_release
                batch.put(self._state.apps, app.name, app)
            else:
                metrics.ROLLOUTS.labels(after.state.value).inc()
            message = f"{caller.principal} ended {row.name}"
            batch.event("RolloutAborted", message, row.name, app.name, severity=event_pb2.SEVERITY_WARNING)

        await self._context.change(build)
        return self._state.rollouts.need(request.name)

    async def pause_rollout(self, request: release_pb2.PauseRolloutRequest, caller: Caller) -> release_pb2.Rollout:
        def hold(before: Rollout, now: float) -> Rollout:
            if before.state not in (State.PENDING, State.RUNNING):
                raise _not_now(request.name, before, "only one that runs can be held")
            return replace(before, state=State.PAUSED, reason=f"{caller.principal} holds it")

        return await self._steer(request.name, hold, "RolloutPaused", f"{caller.principal} holds {request.name}")

    async def resume_rollout(self, request: release_pb2.ResumeRolloutRequest, caller: Caller) -> release_pb2.Rollout:
        def go_on(before: Rollout, now: float) -> Rollout:
            if before.state is not State.PAUSED:
                raise _not_now(request.name, before, "it is not held")
            return replace(before, state=State.RUNNING, reason="", progress_at=now, resumed_at=now)

        message = f"{caller.principal} lets {request.name} go on"
        return await self._steer(request.name, go_on, "RolloutResumed", message)

    async def promote_rollout(self, request: release_pb2.PromoteRolloutRequest, caller: Caller) -> release_pb2.Rollout:
        def promote(before: Rollout, now: float) -> Rollout:
            if before.state is not State.RUNNING:
                raise _not_now(request.name, before, "only one that runs can be promoted")
            release = self._state.releases.need(self._state.rollouts.need(request.name).to_release)
            policy = self._context.manifests.of(release).rollout
            if policy.strategy != "canary" and not (before.side_by_side and policy.manual_promotion):
                raise _not_now(request.name, before, "it has nothing that could be promoted")
            if before.promoted:
                raise _not_now(request.name, before, "it is promoted already")
            return replace(before, promoted=True, reason="", progress_at=now)

        message = f"{caller.principal} promoted {request.name}"
        return await self._steer(request.name, promote, "RolloutPromoted", message)

    async def _steer(
        self, name: str, change: Callable[[Rollout, float], Rollout], kind: str, message: str
    ) -> release_pb2.Rollout:
        parse(name, "apps/*/rollouts/*")

        def build(batch: Batch) -> None:
            row = self._state.rollouts.need(name)
            if decode.state_of(row) in TERMINAL:
                raise failed_precondition("ROLLOUT_ENDED", f"{name} has ended already ({decode.state_of(row).value})")
            now = self._context.steady()
            ends = (row.from_release, row.to_release)
            releases = {r.name: r for n in ends if (r := self._state.releases.get(n)) is not None}
            before = rollout_view(row, releases, 0.0)
            batch.put(self._state.rollouts, name, with_rollout(row, before, change(before, now), now))
            batch.event(kind, message, name, name.partition("/rollouts/")[0])

        await self._context.change(build)
        return self._state.rollouts.need(name)


def _not_now(name: str, before: Rollout, why: str) -> LocciError:
    return failed_precondition("ROLLOUT_STATE", f"{name} is {before.state.value}: {why}")
