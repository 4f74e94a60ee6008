"""What operators order of edges and regions, for a time, whatever the evidence says."""

from __future__ import annotations

from typing import Final

from google.protobuf import empty_pb2

from control_plane import decode
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import invalid
from fleet.ids import parse
from locci.v1 import event_pb2, resource_pb2, routing_pb2

_TTL_S: Final = 3600.0
_TTL_S_MAX: Final = 30 * 86_400.0
_REASON_MAX: Final = 500


class RoutingOverrideService:
    """Implements `locci.v1.RoutingOverrideService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_routing_overrides(
        self, request: routing_pb2.ListRoutingOverridesRequest, caller: Caller
    ) -> routing_pb2.ListRoutingOverridesResponse:
        now = self._context.clock.wall()
        rows = [(name, row) for name, row in self._state.overrides.items() if now < row.expire_time.seconds]
        found, token = listing.page(request, rows)
        return routing_pb2.ListRoutingOverridesResponse(routing_overrides=found, next_page_token=token)

    async def set_routing_override(
        self, request: routing_pb2.SetRoutingOverrideRequest, caller: Caller
    ) -> routing_pb2.RoutingOverride:
        async def act() -> routing_pb2.RoutingOverride:
            row = self._row(request.routing_override, caller)

            def build(batch: Batch) -> None:
                self._need_target(row.target)
                if request.validate_only:
                    return
                self._forget_ended(batch, row.name)
                batch.put(self._state.overrides, row.name, row)
                mode = resource_pb2.OverrideMode.Name(row.mode).removeprefix("OVERRIDE_MODE_").lower()
                share = f" {row.percent} %" if row.mode == resource_pb2.OVERRIDE_MODE_DRAIN else ""
                message = f"{caller.principal} orders {row.target} {mode}{share}: {row.reason or 'no reason given'}"
                warning = event_pb2.SEVERITY_WARNING
                batch.event("RoutingOverrideSet", message, row.name, row.target, severity=warning)

            await self._context.change(build)
            return row if request.validate_only else self._state.overrides.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _row(self, given: routing_pb2.RoutingOverride, caller: Caller) -> routing_pb2.RoutingOverride:
        path = "routing_override"
        drain = given.mode == resource_pb2.OVERRIDE_MODE_DRAIN
        if given.mode not in resource_pb2.OverrideMode.values() or not given.mode:
            raise invalid(f"{path}.mode", f"{path}.mode: say what is ordered: in, out or drain")
        if drain != bool(given.percent) or given.percent > 100:
            message = f"{path}.percent: {given.percent}: a drain needs 1 to 100, and nothing else takes it"
            raise invalid(f"{path}.percent", message)
        ttl_s = decode.span_s(given.ttl) or _TTL_S
        if not 1 <= ttl_s <= _TTL_S_MAX:
            raise invalid(f"{path}.ttl", f"{path}.ttl: {ttl_s:g} s must be from 1 s to 30 days")
        over_s = decode.span_s(given.over)
        if over_s and (not drain or not 0 < 2 * over_s <= ttl_s):
            message = f"{path}.over: {over_s:g} s: only a drain takes it, and at most half of its {ttl_s:g} s"
            raise invalid(f"{path}.over", message)
        if len(given.reason) > _REASON_MAX:
            raise invalid(f"{path}.reason", f"{path}.reason: longer than {_REASON_MAX} characters")
        kind, _, identifier = given.target.partition("/")
        if kind not in ("nodes", "regions") or not identifier or "/" in identifier:
            message = f"{path}.target: {given.target!r} is not of the form nodes/{{node}} or regions/{{region}}"
            raise invalid(f"{path}.target", message)
        now = self._context.clock.wall()
        row = routing_pb2.RoutingOverride(
            name=f"routingOverrides/{kind}-{identifier}",
            target=given.target,
            mode=given.mode,
            percent=given.percent,
            reason=given.reason,
            creator=caller.principal,
        )
        row.create_time.CopyFrom(decode.timestamp(now))
        row.expire_time.CopyFrom(decode.timestamp(now + ttl_s))
        if over_s:
            row.over.CopyFrom(given.over)
        return row

    def _need_target(self, target: str) -> None:
        (self._state.regions if target.startswith("regions/") else self._state.nodes).need(target)

    def _forget_ended(self, batch: Batch, spared: str) -> None:
        now = self._context.clock.wall()
        for name, row in self._state.overrides.items():
            if name != spared and now >= row.expire_time.seconds:
                batch.delete(self._state.overrides, name)

    async def delete_routing_override(
        self, request: routing_pb2.DeleteRoutingOverrideRequest, caller: Caller
    ) -> empty_pb2.Empty:
        parse(request.name, "routingOverrides/*")

        def build(batch: Batch) -> None:
            row = self._state.overrides.need(request.name)
            batch.delete(self._state.overrides, request.name)
            message = f"{caller.principal} takes back what was ordered of {row.target}"
            batch.event("RoutingOverrideDeleted", message, row.name, row.target)

        await self._context.change(build)
        return empty_pb2.Empty()
