"""The bad release of a drill: a release of an app that never gets healthy, made, watched, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from control_plane import decode
from control_plane.core.drill import START_DELAY_S
from control_plane.core.releases import spec_hash
from control_plane.core.rollout import TERMINAL, State, turn_back
from control_plane.drill_spec import BAD_RELEASE, duration_s, offset_s, steps_of
from control_plane.state import Batch
from control_plane.state import State as Store
from control_plane.views import Manifests, rollout_view, with_rollout
from fleet.ids import last_part
from locci.v1 import drill_pb2, event_pb2, manifest_pb2, release_pb2

_PORT_NAME: Final = "locci-drill"
_HEALTH_SHARE: Final = 0.4
"""Of the step's time, so much is given to the release to get healthy: the rest is for going back."""


def unfit_for_release(state: Store, name: str) -> Iterator[str]:
    """Why a bad release must not be tried on an app: only where the old replicas serve beside it."""
    app = state.apps.get(name)
    release = state.releases.get(app.target_release) if app is not None else None
    if app is None or release is None:
        yield f"{name} does not exist"
        return
    manifest = release.manifest
    rollout = state.rollouts.get(app.rollout)
    if rollout is not None and decode.state_of(rollout) not in TERMINAL:
        yield f"{rollout.name} is under way"
    if manifest.placement.singleton:
        yield f"{name} is a singleton: a bad release would take its only replica down"
    if manifest.kind == manifest_pb2.APP_KIND_DAEMON or any(port.host_port for port in manifest.ports):
        yield f"{name} has one replica for each node, which a bad release would take down"


def step_releases(
    state: Store,
    manifests: Manifests,
    batch: Batch,
    row: drill_pb2.DrillRun,
    *,
    wanted: bool,
    wall_s: float,
    now: float,
) -> drill_pb2.DrillRun:
    """The run, when bad releases of its steps were begun or called off. `wanted` says whether faults are still
    asked."""
    if not row.HasField("fault_time"):
        return row
    after_s = now - decode.seconds_of(row.fault_time)
    for index, step in enumerate(steps_of(row.spec)):
        if step.fault != BAD_RELEASE:
            continue
        begun = index + 1 in row.rollouts
        over = not wanted or after_s >= offset_s(step) + duration_s(step)
        if begun and over:
            _take_back(state, batch, row.rollouts[index + 1], now)
        elif not begun and not over and after_s >= offset_s(step) - START_DELAY_S:
            kept = drill_pb2.DrillRun()
            kept.CopyFrom(row)
            kept.rollouts[index + 1] = _begin(state, manifests, batch, row.name, step, wall_s, now)
            row = kept
    return row


def _begin(
    state: Store,
    manifests: Manifests,
    batch: Batch,
    run: str,
    step: drill_pb2.DrillStep,
    wall_s: float,
    now: float,
) -> str:
    """The name of the rollout. What the app shows as its manifest, and as its newest release, stays as it was
    applied."""
    app = state.apps.copy(step.targets[0])
    before = state.releases.need(app.target_release)
    number = 1 + max(r.number for r in state.releases.values() if r.name.startswith(f"{app.name}/"))
    release = release_pb2.Release(
        name=f"{app.name}/releases/{number}",
        number=number,
        manifest=_spoilt(before.manifest, duration_s(step)),
        pinned_image=before.pinned_image,
        create_time=decode.timestamp(wall_s),
        creator=run,
        restarts=before.restarts,
    )
    release.spec_hash = spec_hash(manifests.of(release), release.pinned_image, release.restarts)
    rollouts = (int(last_part(name)) for name in state.rollouts if name.startswith(f"{app.name}/rollouts/"))
    rollout = release_pb2.Rollout(
        name=f"{app.name}/rollouts/{1 + max(rollouts, default=0)}",
        from_release=before.name,
        to_release=release.name,
        state=release_pb2.ROLLOUT_STATE_RUNNING,
        reason=f"{run} tries a bad release",
        create_time=decode.timestamp(wall_s),
        progress_time=decode.timestamp(now),
    )
    app.rollout, app.target_release = rollout.name, release.name
    batch.put(state.releases, release.name, release, 0)
    batch.put(state.rollouts, rollout.name, rollout, 0)
    batch.put(state.apps, app.name, app)
    message = f"{rollout.name} to release {number}, which never gets healthy: {run}"
    batch.event("RolloutStarted", message, rollout.name, app.name, run, severity=event_pb2.SEVERITY_WARNING)
    return rollout.name


def _spoilt(manifest: manifest_pb2.AppManifest, step_s: float) -> manifest_pb2.AppManifest:
    """The same app, asked for its health at a port on which nothing listens. The old replicas serve meanwhile."""
    spoilt = manifest_pb2.AppManifest()
    spoilt.CopyFrom(manifest)
    taken = {port.container_port for port in spoilt.ports}
    free = next(port for port in range(65_535, 0, -1) if port not in taken)
    spoilt.ports.add(name=_PORT_NAME, container_port=free, protocol=manifest_pb2.PORT_PROTOCOL_TCP)
    spoilt.readiness.CopyFrom(manifest_pb2.Probe(tcp=manifest_pb2.TcpProbe(port=_PORT_NAME)))
    spoilt.ClearField("liveness")
    policy = manifest_pb2.RolloutPolicy(max_surge=max(1, manifest.rollout.max_surge))
    policy.drain.CopyFrom(manifest.rollout.drain)
    policy.health_deadline.CopyFrom(decode.duration(max(1.0, step_s * _HEALTH_SHARE)))
    spoilt.rollout.CopyFrom(policy)
    return spoilt


def _take_back(state: Store, batch: Batch, name: str, now: float) -> None:
    """The drill is over: what has not rolled itself back is rolled back now."""
    row = state.rollouts.get(name)
    if row is None or decode.state_of(row) in TERMINAL:
        return
    names = (row.from_release, row.to_release)
    releases = {r.name: r for n in names if (r := state.releases.get(n)) is not None}
    before = rollout_view(row, releases, 0.0)
    after = turn_back(before, "the drill is over", now, automatic=False)
    if after == before:
        return
    batch.put(state.rollouts, row.name, with_rollout(row, before, after, now))
    app = state.apps.copy(row.name.partition("/rollouts/")[0])
    if after.state is State.ROLLING_BACK and app.rollout == row.name:
        app.target_release = row.from_release
        batch.put(state.apps, app.name, app)
    batch.event("RolloutAborted", f"{row.name}: the drill is over", row.name, app.name)
