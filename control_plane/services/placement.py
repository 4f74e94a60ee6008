"""Placement: what a change would do to replicas, by the same rules by which it is done, and balance on request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from control_plane.core.converge import Target
from control_plane.core.foresight import Outlook, balance, differences, settle
from control_plane.core.model import Condition, Replica, Slot
from control_plane.core.placement import wanted_slots
from control_plane.core.preview import preview
from control_plane.core.roles import may_see
from control_plane.core.rollout import TERMINAL, AppView
from control_plane.decode import state_of
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.nodes import NodeService
from control_plane.services.planned import planned
from control_plane.services.regions import RegionService
from control_plane.services.releases import RolloutService
from control_plane.state import Batch
from control_plane.views import Views, demand_of, release_ref
from fleet.errors import LocciError, failed_precondition, invalid, not_found
from fleet.ids import last_part, parse
from locci.v1 import app_pb2, placement_pb2

MOVES_AT_ONCE_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class _World:
    """The fleet as it is or would be."""

    views: Views
    regions: tuple[str, ...]


class PlacementService:
    """Implements `locci.v1.PlacementService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state
        self._nodes = NodeService(context)
        self._regions = RegionService(context)
        self._rollouts = RolloutService(context)

    # -- what would follow

    async def plan_change(
        self, request: placement_pb2.PlanChangeRequest, caller: Caller
    ) -> placement_pb2.PlanChangeResponse:
        kind = request.WhichOneof("change")
        if kind is None:
            raise invalid("change", "change: say what would change, as in drain_node")
        name = str(getattr(request, kind))
        if not may_see(caller.scopes, name):
            raise not_found(name)
        refusal = self._refusal(kind, name)
        match kind:
            case "delete_app":
                changes = self._without_app(name)
            case "rollback_app":
                changes = [] if refusal else self._rolled_back(name)
            case "delete_region":
                inside = [node.name for node in self._state.nodes.values() if node.region == name]
                changes = self._compared(_gone(inside), inside, without_region=last_part(name))
            case _:
                changes = self._compared(_gone([name]) if kind == "delete_node" else _off(name, kind), [name])
        seen = [change for change in changes if may_see(caller.scopes, change.replica)]
        return placement_pb2.PlanChangeResponse(allowed=not refusal, refusal=refusal, changes=seen)

    def _refusal(self, kind: str, name: str) -> str:
        """Why the change would be refused now. Raises NOT_FOUND and INVALID_ARGUMENT for what is not there."""
        pattern = {"node": "nodes/*", "region": "regions/*", "app": "apps/*"}[kind.rpartition("_")[2]]
        if kind == "rollback_app":
            app, _, number = name.partition("/releases/")
            parse(app, pattern, kind)
            return _words(lambda: self._rollouts.chosen(self._state.apps.need(app), name if number else ""))
        parse(name, pattern, kind)
        table = {"nodes/*": self._state.nodes, "regions/*": self._state.regions, "apps/*": self._state.apps}[pattern]
        table.need(name)  # type: ignore[attr-defined]
        match kind:
            case "drain_node":
                return _words(lambda: self._nodes.check_drainable(self._state.nodes.need(name)))
            case "delete_node":
                return _words(lambda: self._nodes.check_unused(self._state.nodes.need(name)))
            case "delete_region":
                return _words(lambda: self._regions.check_unused(name))
        return ""

    def _without_app(self, name: str) -> list[app_pb2.PlannedChange]:
        rows = [row for row in self._state.assignments.values() if f"apps/{row.app}" == name and not row.stopping]
        stop = app_pb2.PlannedChange.ACTION_STOP
        return [app_pb2.PlannedChange(action=stop, replica=r.name, node=r.node, reason="its app goes") for r in rows]

    def _rolled_back(self, name: str) -> list[app_pb2.PlannedChange]:
        app = self._state.apps.need(name.partition("/releases/")[0])
        release = self._rollouts.chosen(app, name if "/releases/" in name else "")
        manifest, views = self._context.manifests.of(release), self._context.views()
        view = replace(views.app(app, manifest), problems=())
        found = preview(view, release_ref(release), manifest.placement, views.ledger, demand_of(manifest))
        return [planned(manifest.name, change) for change in found]

    def _compared(
        self, alter: Callable[[Views], None], touched: Iterable[str], without_region: str = ""
    ) -> list[app_pb2.PlannedChange]:
        """The changes of every app that the altered fleet sees otherwise."""
        regions = tuple(last_part(name) for name in self._state.regions)
        before = _World(self._context.views(), regions)
        after = _World(self._context.views(), tuple(r for r in regions if r != without_region))
        alter(after.views)
        ids = {last_part(name) for name in touched}
        result: list[app_pb2.PlannedChange] = []
        for app in self._state.apps.values():
            app_id = last_part(app.name)
            concerned = any(a.view.node in ids for a in before.views.by_app.get(app_id, ()))
            if concerned or self._slots(app, before) != self._slots(app, after):
                found = differences(self._outlook(app, before), self._outlook(app, after))
                result.extend(planned(app_id, change) for change in found)
        return result

    def _slots(self, app: app_pb2.App, world: _World) -> tuple[Slot, ...]:
        view, wanted, _ = self._setting(app, world)
        return wanted(view.replicas)

    def _outlook(self, app: app_pb2.App, world: _World) -> Outlook:
        view, wanted, target = self._setting(app, world)
        return settle(view, wanted, target, self._context.steady())

    def _setting(
        self, app: app_pb2.App, world: _World
    ) -> tuple[AppView, Callable[[Sequence[Replica]], tuple[Slot, ...]], Target]:
        """The app without its rollout: what a change of the fleet does to it is not mixed with that."""
        release = self._state.releases.need(app.target_release)
        manifest = world.views.patient(app, self._context.manifests.of(release))
        view = world.views.app(app, manifest)
        nodes = list(world.views.nodes.values())

        def wanted(replicas: Sequence[Replica]) -> tuple[Slot, ...]:
            return wanted_slots(manifest.placement, manifest.kind, world.regions, nodes, replicas)

        demand = demand_of(manifest)
        return view, wanted, Target(release_ref(release), None, manifest.placement, world.views.ledger, demand)

    # -- balance

    async def rebalance(
        self, request: placement_pb2.RebalanceRequest, caller: Caller
    ) -> placement_pb2.RebalanceResponse:
        async def act() -> placement_pb2.RebalanceResponse:
            if request.max_moves > MOVES_AT_ONCE_MAX:
                message = f"max_moves: {request.max_moves} at a time is too many; at most {MOVES_AT_ONCE_MAX}"
                raise invalid("max_moves", message)
            changes, begin = self._moves(request.app)
            if begin and not request.validate_only:
                await self._context.change(lambda batch: self._begin(batch, begin, request.max_moves or 1, caller))
            return placement_pb2.RebalanceResponse(changes=changes)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _moves(self, name: str) -> tuple[list[app_pb2.PlannedChange], list[str]]:
        """The moves that help, and the apps that have some, or that may have when their rollout has ended."""
        parse(name, "apps/*", "app")
        one = name != "apps/-"
        world = _World(self._context.views(), tuple(last_part(region) for region in self._state.regions))
        changes: list[app_pb2.PlannedChange] = []
        begin: list[str] = []
        for app in [self._state.apps.need(name)] if one else self._state.apps.values():
            view, _, target = self._setting(app, world)
            if view.singleton or any(slot.node for slot in view.slots):
                if one:
                    message = f"{name} is a {'singleton' if view.singleton else 'daemon'}: its replicas stay"
                    raise failed_precondition("NOT_MOVABLE", message)
                continue
            found = balance(view, target)
            changes.extend(planned(view.name, change) for change in found)
            rollout = self._state.rollouts.get(app.rollout)
            if found or (rollout is not None and state_of(rollout) not in TERMINAL):
                begin.append(app.name)
        return changes, begin

    def _begin(self, batch: Batch, apps: Sequence[str], moves: int, caller: Caller) -> None:
        for name in apps:
            row = self._state.apps.copy(name)
            row.rebalance_moves = moves
            batch.put(self._state.apps, name, row)
            message = f"{caller.principal} rebalances {name}, {moves} at a time"
            batch.event("RebalanceStarted", message, name)


def _off(node: str, kind: str) -> Callable[[Views], None]:
    """The node takes nothing new; one that drains also loses what it holds, as soon as that has another place."""

    def alter(views: Views) -> None:
        before = views.nodes.get(last_part(node))
        if before is not None:
            after = replace(before, cordoned=True)
            if kind == "drain_node":
                after = replace(after, condition=Condition.DRAINING, drain_until=math.inf)
            views.nodes[before.id] = after

    return alter


def _gone(nodes: Iterable[str]) -> Callable[[Views], None]:
    """The nodes are out of the fleet, with all that they hold."""
    ids = {last_part(name) for name in nodes}

    def alter(views: Views) -> None:
        for node in ids:
            views.nodes.pop(node, None)
        for app, held in views.by_app.items():
            views.by_app[app] = [assigned for assigned in held if assigned.view.node not in ids]

    return alter


def _words(check: Callable[[], object]) -> str:
    """What a check says against a change; empty when it passes."""
    try:
        check()
    except LocciError as error:
        return error.message
    return ""
