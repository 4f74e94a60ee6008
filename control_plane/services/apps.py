"""Apps: a manifest comes in, becomes a release with a pinned image, and a rollout brings it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from google.protobuf import empty_pb2

from control_plane import decode, secret_values
from control_plane.core.manifest import Manifest, complete
from control_plane.core.preview import preview
from control_plane.core.releases import expendable, is_unchanged, spec_hash
from control_plane.core.roles import may_see
from control_plane.core.rollout import TERMINAL
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag
from control_plane.services.planned import planned
from control_plane.state import Batch
from control_plane.views import demand_of, release_ref
from fleet.errors import failed_precondition, invalid
from fleet.ids import last_part, parse
from fleet.signatures import load_key, signed_by
from locci.v1 import app_pb2, manifest_pb2, release_pb2


class AppService:
    """Implements `locci.v1.AppService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_apps(self, request: app_pb2.ListAppsRequest, caller: Caller) -> app_pb2.ListAppsResponse:
        seen = [(name, row) for name, row in self._state.apps.items() if may_see(caller.scopes, name)]
        rows, token = listing.page(request, seen, shown=self.shown)
        return app_pb2.ListAppsResponse(apps=rows, next_page_token=token)

    async def get_app(self, request: app_pb2.GetAppRequest, caller: Caller) -> app_pb2.App:
        parse(request.name, "apps/*")
        return self.shown(self._state.apps.need(request.name))

    async def apply_app(self, request: app_pb2.ApplyAppRequest, caller: Caller) -> app_pb2.ApplyAppResponse:
        async def act() -> app_pb2.ApplyAppResponse:
            raw = decode.manifest(request.manifest)
            complete(raw, self._context.manifests.surroundings())
            self._pin_secrets(request.manifest)
            pinned = await self._context.registry.pin(raw.image)
            await self._check_signed(pinned, raw.container.public_keys)

            def build(batch: Batch) -> app_pb2.ApplyAppResponse:
                # Checked again: what it is checked against may have changed while the registry was asked.
                shape = self._pin_secrets(request.manifest)
                manifest = complete(decode.manifest(shape), self._context.manifests.surroundings())
                check_etag(f"apps/{raw.name}", request.etag, self._state.apps.revision(f"apps/{raw.name}"))
                return self._apply(batch, request, shape, manifest, pinned, caller)

            if request.validate_only:
                return build(Batch())
            return self._settled(await self._context.change(build))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def _check_signed(self, image: str, keys: Sequence[str]) -> None:
        """Hosts check it again, before each start. Raises FAILED_PRECONDITION."""
        if not keys:
            return
        signatures = await self._context.registry.signatures(image)
        digest = image.partition("@")[2]
        if not signed_by(digest, signatures, [load_key(pem) for pem in keys]):
            found = f"{len(signatures)} signature(s) are there, none by those keys" if signatures else "there is none"
            message = f"{image} is not signed by any of manifest.verification.public_keys: {found}; use `cosign sign`"
            raise failed_precondition("IMAGE_NOT_SIGNED", message)

    def _settled(self, answer: app_pb2.ApplyAppResponse) -> app_pb2.ApplyAppResponse:
        """The answer with everything as it was stored."""
        if not answer.unchanged:
            answer.release.CopyFrom(self._state.releases.need(answer.release.name))
            answer.rollout.CopyFrom(self._state.rollouts.need(answer.rollout.name))
        answer.app.CopyFrom(self.shown(self._state.apps.need(answer.app.name)))
        return answer

    def _pin_secrets(self, message: manifest_pb2.AppManifest) -> manifest_pb2.AppManifest:
        """The manifest with the versions that its secrets have now. Raises FAILED_PRECONDITION when one is missing."""
        result = manifest_pb2.AppManifest()
        result.CopyFrom(message)
        for index, mount in enumerate(result.secrets):
            secret_values.pin(self._state, self._context.vault, mount, f"manifest.secrets[{index}]")
        return result

    def _apply(
        self,
        batch: Batch,
        request: app_pb2.ApplyAppRequest,
        shape: manifest_pb2.AppManifest,
        manifest: Manifest,
        pinned: str,
        caller: Caller,
    ) -> app_pb2.ApplyAppResponse:
        """`shape` is what the release keeps: the manifest with everything that it names by "latest" made fast."""
        name = f"apps/{manifest.name}"
        before = self._state.apps.get(name)
        if before is not None and self._is_unchanged(before, manifest, pinned):
            return app_pb2.ApplyAppResponse(app=self.shown(before), unchanged=True)
        return self._release(batch, before, shape, request.manifest, pinned, self._restarts(before), caller)

    def _release(
        self,
        batch: Batch,
        before: app_pb2.App | None,
        shape: manifest_pb2.AppManifest,
        applied: manifest_pb2.AppManifest,
        pinned: str,
        restarts: int,
        caller: Caller,
    ) -> app_pb2.ApplyAppResponse:
        """A new release of `shape`, and the rollout that brings it. `applied` is what the app shows as its manifest."""
        name = f"apps/{shape.name}"
        manifest = complete(decode.manifest(shape), self._context.manifests.surroundings())
        now = self._context.clock.wall()
        number = self._next_number(name)
        release = release_pb2.Release(
            name=f"{name}/releases/{number}",
            number=number,
            manifest=shape,
            pinned_image=pinned,
            spec_hash=spec_hash(manifest, pinned, restarts),
            create_time=decode.timestamp(now),
            creator=caller.principal,
            restarts=restarts,
        )
        app = app_pb2.App()
        if before is not None:
            app.CopyFrom(before)
        else:
            app.name = name
            app.create_time.CopyFrom(decode.timestamp(now))
        app.manifest.CopyFrom(applied)
        app.latest_release = release.name
        app.update_time.CopyFrom(decode.timestamp(now))
        self._forget_old(batch, before, number)
        rollout = begin_rollout(self._context, batch, app, release, f"release {number} was applied")
        batch.put(self._state.releases, release.name, release, 0)
        batch.event("ReleaseCreated", f"{caller.principal} made {release.name} of {pinned}", release.name, name)
        changes = self._changes(app, manifest, release)
        return app_pb2.ApplyAppResponse(app=app, release=release, rollout=rollout, changes=changes)

    def _restarts(self, app: app_pb2.App | None) -> int:
        """A restart holds for the releases that follow: else applying a manifest would undo it."""
        return 0 if app is None else self._state.releases.need(app.latest_release).restarts

    def _forget_old(self, batch: Batch, app: app_pb2.App | None, coming: int) -> None:
        """Drops releases, with their rollouts, that are too many and that nobody needs."""
        if app is None:
            return
        mine = {r.name: r.number for r in self._state.releases.values() if r.name.startswith(f"{app.name}/")}
        needed = {mine.get(n, 0) for n in (app.latest_release, app.target_release, app.stable_release)}
        needed |= {int(row.release) for row in self._state.assignments.values() if f"apps/{row.app}" == app.name}
        rows = [row for row in self._state.rollouts.values() if row.name.startswith(f"{app.name}/")]
        for row in rows:
            if decode.state_of(row) not in TERMINAL or row.name == app.rollout:
                needed |= {mine.get(row.from_release, 0), mine.get(row.to_release, 0)}
        going = set(expendable([*mine.values(), coming], {*needed, coming}, self._context.releases_kept))
        for name, number in mine.items():
            if number in going:
                batch.delete(self._state.releases, name)
        for row in rows:
            if mine.get(row.to_release) in going:
                batch.delete(self._state.rollouts, row.name)

    def _is_unchanged(self, app: app_pb2.App, manifest: Manifest, pinned: str) -> bool:
        """Whether it is the newest release again. After it was rolled back, applying it again is a new try."""
        latest = self._state.releases.need(app.latest_release)
        if app.target_release != app.latest_release:
            return False
        return is_unchanged(manifest, pinned, self._context.manifests.of(latest), latest.pinned_image)

    def _next_number(self, app: str) -> int:
        return 1 + max((r.number for r in self._state.releases.values() if r.name.startswith(f"{app}/")), default=0)

    def _changes(
        self, app: app_pb2.App, manifest: Manifest, release: release_pb2.Release
    ) -> list[app_pb2.PlannedChange]:
        views = self._context.views()
        view = replace(views.app(app, manifest), problems=())
        changes = preview(view, release_ref(release), manifest.placement, views.ledger, demand_of(manifest))
        return [planned(manifest.name, change) for change in changes]

    async def scale_app(self, request: app_pb2.ScaleAppRequest, caller: Caller) -> app_pb2.ApplyAppResponse:
        parse(request.name, "apps/*")
        if bool(request.replicas) == bool(request.replicas_per_region):
            message = "replicas: give either replicas or replicas_per_region, at least 1; to run none, remove the app"
            raise invalid("replicas", message)
        manifest = manifest_pb2.AppManifest()
        manifest.CopyFrom(self._state.apps.need(request.name).manifest)
        if manifest.kind == manifest_pb2.APP_KIND_DAEMON:
            message = f"{request.name} is a daemon: it has one replica on each node that matches its placement"
            raise failed_precondition("DAEMON", message)
        manifest.placement.replicas = request.replicas
        manifest.placement.replicas_per_region = request.replicas_per_region
        applied = app_pb2.ApplyAppRequest(
            manifest=manifest,
            etag=request.etag,
            validate_only=request.validate_only,
            request_id=request.request_id,
        )
        return await self.apply_app(applied, caller)

    async def restart_app(self, request: app_pb2.RestartAppRequest, caller: Caller) -> app_pb2.ApplyAppResponse:
        async def act() -> app_pb2.ApplyAppResponse:
            parse(request.name, "apps/*")

            def build(batch: Batch) -> app_pb2.ApplyAppResponse:
                app = self._state.apps.need(request.name)
                check_etag(request.name, request.etag, self._state.apps.revision(request.name))
                present = self._state.releases.need(app.target_release)
                secret_values.require(self._state, present.manifest.secrets)
                newest = app.target_release == app.latest_release
                applied = app.manifest if newest else present.manifest
                restarts = 1 + max(self._restarts(app), present.restarts)
                return self._release(batch, app, present.manifest, applied, present.pinned_image, restarts, caller)

            if request.validate_only:
                return build(Batch())
            return self._settled(await self._context.change(build))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def set_maintenance(self, request: app_pb2.SetMaintenanceRequest, caller: Caller) -> app_pb2.App:
        async def act() -> app_pb2.App:
            parse(request.name, "apps/*")

            def build(batch: Batch) -> None:
                app = self._state.apps.copy(request.name)
                check_etag(request.name, request.etag, self._state.apps.revision(request.name))
                if app.maintenance == request.on or request.validate_only:
                    return
                app.maintenance = request.on
                app.update_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
                batch.put(self._state.apps, request.name, app)
                what, kind = ("puts", "MaintenanceBegan") if request.on else ("takes", "MaintenanceEnded")
                where = "into" if request.on else "out of"
                batch.event(kind, f"{caller.principal} {what} {request.name} {where} maintenance", request.name)

            await self._context.change(build)
            return self.shown(self._state.apps.need(request.name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def delete_app(self, request: app_pb2.DeleteAppRequest, caller: Caller) -> empty_pb2.Empty:
        async def act() -> empty_pb2.Empty:
            parse(request.name, "apps/*")
            app_id = last_part(request.name)

            def build(batch: Batch) -> None:
                self._state.apps.need(request.name)
                check_etag(request.name, request.etag, self._state.apps.revision(request.name))
                if request.validate_only:
                    return
                batch.delete(self._state.apps, request.name)
                for table in (self._state.releases, self._state.rollouts, self._state.purges):
                    for name in table:
                        if name.startswith(f"{request.name}/"):
                            batch.delete(table, name)
                for key, row in self._state.assignments.items():
                    if row.app == app_id and not row.stopping:
                        stopped = self._state.assignments.copy(key)
                        stopped.stopping = True
                        batch.put(self._state.assignments, key, stopped)
                batch.event("AppDeleted", f"{caller.principal} removed {request.name}", request.name)

            await self._context.change(build)
            if not request.validate_only:
                self._context.manifests.forget(app_id)
            return empty_pb2.Empty()

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def shown(self, row: app_pb2.App) -> app_pb2.App:
        """The stored app with what follows from its replicas."""
        result = app_pb2.App()
        result.CopyFrom(row)
        app_id = last_part(row.name)
        held = [a for a in self._state.assignments.values() if a.app == app_id and not a.stopping and not a.displaced]
        rollout = self._state.rollouts.get(row.rollout)
        result.wanted_replicas = rollout.wanted if rollout else 0
        result.healthy_replicas = len({(a.region, a.ordinal) for a in held if a.healthy})
        result.placement_problems[:] = self._context.observed.problems.get(app_id, ())
        return result


def begin_rollout(
    context: Context, batch: Batch, app: app_pb2.App, release: release_pb2.Release, reason: str
) -> release_pb2.Rollout:
    """A rollout of `app` to `release`; one in progress is superseded. Puts both into the batch, and the app."""
    state = context.state
    current = state.rollouts.get(app.rollout)
    if current is not None and decode.state_of(current) not in TERMINAL:
        ended = state.rollouts.copy(current.name)
        ended.state = release_pb2.ROLLOUT_STATE_SUPERSEDED
        ended.reason = f"release {release.number} took over"
        ended.end_time.CopyFrom(decode.timestamp(context.clock.wall()))
        batch.put(state.rollouts, ended.name, ended)
        batch.event("RolloutSuperseded", f"{ended.name}: {ended.reason}", ended.name, app.name)
    number = 1 + max(
        (int(last_part(name)) for name in state.rollouts if name.startswith(f"{app.name}/rollouts/")), default=0
    )
    now = decode.timestamp(context.steady())
    source = app.stable_release if app.stable_release != release.name else ""
    rollout = release_pb2.Rollout(
        name=f"{app.name}/rollouts/{number}",
        from_release=source,
        to_release=release.name,
        state=release_pb2.ROLLOUT_STATE_RUNNING,
        reason=reason,
        create_time=decode.timestamp(context.clock.wall()),
        progress_time=now,
    )
    before = state.releases.get(source)
    if release.manifest.rollout.strategy == manifest_pb2.ROLLOUT_STRATEGY_BLUE_GREEN and before is not None:
        rollout.side_by_side = before.number < release.number and before.spec_hash != release.spec_hash
    if before is not None and before.number < release.number and before.pinned_image != release.pinned_image:
        rollout.prefetching = True
    app.rollout = rollout.name
    app.target_release = release.name
    batch.put(state.rollouts, rollout.name, rollout, 0)
    batch.put(state.apps, app.name, app)
    batch.event("RolloutStarted", f"{rollout.name} to release {release.number}: {reason}", rollout.name, app.name)
    return rollout
