"""The fleet as the cores want to see it, from desired state and what nodes have said."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from control_plane import decode
from control_plane.core.converge import free_of
from control_plane.core.ledger import Ledger
from control_plane.core.liveness import Silence
from control_plane.core.manifest import Manifest, Surroundings, complete
from control_plane.core.model import NOTHING, Condition, Demand, NodeView, ReleaseRef, Replica
from control_plane.core.placement import wanted_slots
from control_plane.core.rollout import TERMINAL, AppView, Rollout
from control_plane.observed import Observed, Reported
from control_plane.state import State
from fleet.ids import last_part
from locci.v1 import app_pb2, node_pb2, region_pb2, release_pb2, replica_pb2

T = TypeVar("T")


def assignment_key(app: str, ordinal: int, release: int, node: str) -> str:
    """The name of an assignment in the store; a node's id is part of it, for after a loss there may be two."""
    return f"apps/{app}/replicas/{ordinal}-{release}@{node}"


def resource_name(row: replica_pb2.Replica) -> str:
    """The name of the replica in its node's snapshot."""
    return f"replicas/{row.app}/{row.ordinal}/{row.release}"


def image_name(image: str) -> str:
    """The name of an image that a node is to hold, in its snapshot."""
    return f"images/{hashlib.sha256(image.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment with its key in the store, and the core's view of it."""

    key: str
    row: replica_pb2.Replica
    view: Replica


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How many times what a node has its replicas may ask for in all."""

    cpu: float = 2.0
    memory: float = 1.0


USUAL: Final = Overcommit()
_SPARE: Final = 1_000
"""So many views of assignments that are gone are kept at most, besides as many as there are."""


class Views:
    """Builds views. One instance serves one look at the fleet: it indexes assignments once."""

    def __init__(self, state: State, observed: Observed, manifests: Manifests, now: float):
        self._state = state
        self._observed = observed
        self._manifests = manifests
        self._now = now
        self.node_rows: dict[str, node_pb2.Node] = {}
        """Every node by id, in order."""
        self.nodes = self._node_views()
        self.by_app: dict[str, list[Assigned]] = defaultdict(list)
        self.by_node: dict[str, list[Assigned]] = defaultdict(list)
        self.ledger = Ledger()
        self._demands: dict[tuple[str, int], Demand] = {}
        if len(manifests.assigned) > 2 * len(state.assignments) + _SPARE:
            manifests.assigned.clear()
        for key, row in state.assignments.items():
            assigned = self._assigned(key, row)
            self.by_app[row.app].append(assigned)
            self.by_node[assigned.view.node].append(assigned)
            self.ledger.add(assigned.view.node, row.app, self._demand(row), counts=not row.stopping)

    def _demand(self, row: replica_pb2.Replica) -> Demand:
        known = self._demands.get((row.app, row.release))
        if known is None:
            release = self._state.releases.get(f"apps/{row.app}/releases/{row.release}")
            known = NOTHING if release is None else demand_of(self._manifests.of(release))
            self._demands[row.app, row.release] = known
        return known

    def _node_views(self) -> dict[str, NodeView]:
        known = self._manifests.nodes
        for name in known.due(self._state):
            node = self._state.nodes.get(name)
            view = None
            if node is not None and node_pb2.NODE_ROLE_EDGE in node.roles:
                view = self._node_view(node, self._state.regions.get(node.region))
            known.put(name, node, view)
        self.node_rows = known.rows.copy()
        views = known.views.copy()
        if self._observed.brake.engaged:
            return {view.id: view for view in free_of(list(views.values()))}
        return views

    def _node_view(self, node: node_pb2.Node, region: region_pb2.Region | None) -> NodeView:
        node_id = last_part(node.name)
        session = self._observed.leading(node, node_id)
        silence = Silence(session.heard_at if session else None, self._observed.judged_from)
        condition, since = decode.condition_of(node), decode.seconds_of(node.condition_time)
        silent_s = {
            Condition.READY: 0.0,
            Condition.JOINING: max(0.0, self._now - since),
        }.get(condition, silence.at(self._now))
        return NodeView(
            id=node_id,
            region=last_part(node.region),
            condition=condition,
            cordoned=node.cordoned,
            silent_s=silent_s,
            since=since,
            architecture=node.facts.architecture,
            jurisdictions=tuple(region.jurisdictions) if region else (),
            labels=dict(node.labels),
            drain_until=decode.seconds_of(node.drain_deadline_time),
            cpu_millis=int(node.facts.cpus * 1000 * self._manifests.overcommit.cpu),
            memory_bytes=int(node.facts.memory_bytes * self._manifests.overcommit.memory),
        )

    def _assigned(self, key: str, row: replica_pb2.Replica) -> Assigned:
        """The view of an assignment; the one of an earlier look as long as what it was made of is the same."""
        known = self._manifests.assigned.get(key)
        node_id = last_part(row.node) if known is None or known[0].row is not row else known[0].view.node
        session = self._observed.sessions.get((node_id, node_pb2.NODE_ROLE_EDGE))
        said = (False, "") if session is None else (session.confirmed, session.refused_reason)
        name = resource_name(row) if known is None or known[0].row is not row else known[3]
        reported = self._observed.reported(node_id, name)
        if known is None or known[0].row is not row or known[1] is not reported or known[2] != said:
            known = (Assigned(key, row, self._replica(row, node_id, said, reported)), reported, said, name)
            self._manifests.assigned[key] = known
        return known[0]

    def _replica(
        self, row: replica_pb2.Replica, node_id: str, said: tuple[bool, str], reported: Reported | None
    ) -> Replica:
        confirmed, refused_reason = said
        assigned_at = decode.seconds_of(row.assign_time)
        reason = reported.status.reason if reported else ""
        if not reason and refused_reason:
            reason = f"the node refused its snapshot: {refused_reason}"
        if not reason and not reported:
            reason = "the node has not reported it yet"
        return Replica(
            ordinal=row.ordinal,
            release=row.release,
            spec_hash=row.spec_hash,
            region=last_part(row.region),
            node=node_id,
            assigned_at=assigned_at,
            ready=row.healthy,
            since=reported.since if reported else max(assigned_at, self._observed.started_at),
            confirmed=confirmed,
            stopping=row.stopping,
            displaced=row.displaced,
            reason=reason,
            log_tail=reported.status.log_tail if reported else "",
            leaving=row.leaving,
            fence_until=decode.seconds_of(row.fence_time),
        )

    def unfetched(self, rollout: release_pb2.Rollout, image: str) -> tuple[tuple[str, str], ...]:
        """The nodes in order that are to hold the image of a rollout and do not so far, each with the reason."""
        found = []
        for name in rollout.prefetch_nodes:
            node_id = last_part(name)
            node = self.nodes.get(node_id)
            if node is None or not node.is_in_order or not self.takes_images(node_id):
                continue
            reported = self._observed.reported(node_id, image_name(image))
            if reported is None or not reported.status.ready:
                found.append((node_id, reported.status.reason if reported else "it has said nothing of it so far"))
        return tuple(found)

    def takes_images(self, node_id: str) -> bool:
        """Whether a node can hold images without replicas: its agent knows how to."""
        session = self._observed.sessions.get((node_id, node_pb2.NODE_ROLE_EDGE))
        return session is not None and session.takes_images

    def patient(self, app: app_pb2.App, manifest: Manifest) -> Manifest:
        """The manifest; that of a singleton with the longest `lost_after` of the releases that nodes may still run, for
        the fence of the old holder counts, not that of the new."""
        if not manifest.placement.singleton:
            return manifest
        names = {f"{app.name}/releases/{held.row.release}" for held in self.by_app.get(last_part(app.name), ())}
        rows = [row for name in names if (row := self._state.releases.get(name)) is not None]
        longest_s = max(
            [manifest.placement.lost_after_s, *(self._manifests.of(r).placement.lost_after_s for r in rows)]
        )
        return replace(manifest, placement=replace(manifest.placement, lost_after_s=longest_s))

    def app(self, app: app_pb2.App, manifest: Manifest) -> AppView:
        """The app as the cores see it, wanted by `manifest`."""
        app_id = last_part(app.name)
        replicas = tuple(assigned.view for assigned in self.by_app.get(app_id, []))
        regions = [last_part(name) for name in self._state.regions]
        nodes = list(self.nodes.values())
        slots = wanted_slots(manifest.placement, manifest.kind, regions, nodes, replicas)
        return AppView(
            name=app_id,
            policy=manifest.rollout,
            slots=slots,
            replicas=replicas,
            nodes=self.nodes,
            problems=self._observed.problems.get(app_id, ()),
            singleton=manifest.placement.singleton,
        )


class KnownNodes:
    """The nodes of the last look, by id and in the order of their ids; only what has changed since is made anew."""

    def __init__(self) -> None:
        self.rows: dict[str, node_pb2.Node] = {}
        self.views: dict[str, NodeView] = {}
        """Of those that run replicas."""
        self.dns_changes = 0
        """Rises with each change of a DNS server's node."""
        self._silent: set[str] = set()
        """Names of those that are not in order: their silence grows from look to look."""
        self._mark = (-1, -1)

    def due(self, state: State) -> list[str]:
        """Names of the nodes that are not, or may not be, as they were; in order."""
        mark, (nodes, regions) = (state.nodes.changes, state.regions.changes), self._mark
        changed = state.nodes.since(nodes) if regions == mark[1] else None
        self._mark = mark
        if changed is None:
            self.rows, self.views, self._silent = {}, {}, set()
            return list(state.nodes)
        return sorted(changed | self._silent)

    def put(self, name: str, node: node_pb2.Node | None, view: NodeView | None) -> None:
        """Takes over what a node is now; None when it is gone, or runs no replicas."""
        node_id = last_part(name)
        if any(row is not None and node_pb2.NODE_ROLE_DNS in row.roles for row in (node, self.rows.get(node_id))):
            self.dns_changes += 1
        self.rows = _put(self.rows, node_id, node)
        self.views = _put(self.views, node_id, view)
        if view is None or view.condition is Condition.READY:
            self._silent.discard(name)
        else:
            self._silent.add(name)


def _put(into: dict[str, T], key: str, value: T | None) -> dict[str, T]:
    """The dictionary with the value, or without the key, still in the order of its keys."""
    if value is None:
        into.pop(key, None)
    elif key in into or not into or key > next(reversed(into)):
        into[key] = value
    else:
        into = dict(sorted((into | {key: value}).items()))
    return into


class Manifests:
    """Complete manifests of releases, decoded once each; and what is kept of one look for the next."""

    def __init__(self, state: State, overcommit: Overcommit = USUAL):
        self._state = state
        self.overcommit = overcommit
        self._cache: dict[str, Manifest] = {}
        self.assigned: dict[str, tuple[Assigned, Reported | None, tuple[bool, str], str]] = {}
        """By key: the view of an assignment, what it was made of, and the replica's name on its node."""
        self.nodes = KnownNodes()

    def surroundings(self) -> Surroundings:
        """What a manifest is checked against now."""
        owners = {
            hostname: last_part(app.name) for app in self._state.apps.values() for hostname in app.manifest.hostnames
        }
        return Surroundings(frozenset(last_part(name) for name in self._state.regions), owners)

    def of(self, release: release_pb2.Release) -> Manifest:
        """The release's manifest with its defaults; what was once accepted is not refused again."""
        if release.name not in self._cache:
            raw = decode.manifest(release.manifest)
            named = {*raw.placement.regions, *raw.routing.order, *(r for w in raw.rollout.waves for r in w.regions)}
            named |= {*raw.rollout.canary_regions, raw.cache_policy.shield_region, *(r for r, _ in raw.routing.weights)}
            named |= {region for _, regions in raw.routing.geo for region in regions}
            around = Surroundings(frozenset(named), {})
            self._cache[release.name] = complete(raw, around)
        return self._cache[release.name]

    def forget(self, app: str) -> None:
        """Drops what belongs to an app; its name may be used again."""
        for name in [name for name in self._cache if name.startswith(f"apps/{app}/")]:
            del self._cache[name]


def demand_of(manifest: Manifest) -> Demand:
    """What each replica of a release needs of its node."""
    ports = frozenset(port.host_port for port in manifest.ports if port.host_port)
    return Demand(manifest.limits.cpu_millis, manifest.limits.memory_bytes, ports)


def release_ref(release: release_pb2.Release) -> ReleaseRef:
    """The release by number and hash."""
    return ReleaseRef(release.number, release.spec_hash)


def rollout_view(
    rollout: release_pb2.Rollout, releases: Mapping[str, release_pb2.Release], not_before: float
) -> Rollout:
    """The rollout as the core sees it; its progress deadline does not run before `not_before`."""
    source = releases.get(rollout.from_release)
    return Rollout(
        state=decode.state_of(rollout),
        source=release_ref(source) if source else None,
        target=release_ref(releases[rollout.to_release]),
        progress_at=max(decode.seconds_of(rollout.progress_time), not_before),
        steps_taken=rollout.steps_taken,
        automatic=rollout.automatic_rollback,
        reason=rollout.reason,
        updated=rollout.updated,
        healthy=rollout.healthy,
        promoted=rollout.promoted,
        resumed_at=decode.seconds_of(rollout.resume_time),
        side_by_side=rollout.side_by_side,
        switched_at=decode.seconds_of(rollout.switch_time),
        prefetched=not rollout.prefetching,
    )


def with_rollout(row: release_pb2.Rollout, before: Rollout, after: Rollout, now: float) -> release_pb2.Rollout:
    """The stored rollout after a step of the core."""
    result = release_pb2.Rollout()
    result.CopyFrom(row)
    result.state = decode.STATES[after.state]
    result.reason = after.reason
    result.automatic_rollback = after.automatic
    result.updated, result.healthy = after.updated, after.healthy
    result.steps_taken = after.steps_taken
    result.promoted = after.promoted
    result.prefetching = not after.prefetched
    if after.switched_at:
        result.switch_time.CopyFrom(decode.timestamp(after.switched_at))
    if after.resumed_at:
        result.resume_time.CopyFrom(decode.timestamp(after.resumed_at))
    result.progress_time.CopyFrom(decode.timestamp(after.progress_at))
    if after.state is not before.state:
        if decode.STATES[after.state] == release_pb2.ROLLOUT_STATE_ROLLING_BACK:
            result.rollback_time.CopyFrom(decode.timestamp(now))
        elif after.state in TERMINAL:
            result.end_time.CopyFrom(decode.timestamp(now))
    return result
