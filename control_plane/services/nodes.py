"""Nodes: what operators see of hosts, and what they may do to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf import empty_pb2

from control_plane import decode
from control_plane.core.model import Condition
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag, merge
from control_plane.services.enrolment import check_addresses
from control_plane.state import Batch
from fleet.errors import failed_precondition, invalid
from fleet.ids import last_part, parse
from locci.v1 import agent_pb2, event_pb2, node_pb2

_DRAIN_S: Final = 600.0
_DRAIN_S_MAX: Final = 86_400.0
_OWN: Final = frozenset({"addresses", "labels", "cordoned"})


class NodeService:
    """Implements `locci.v1.NodeService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_nodes(self, request: node_pb2.ListNodesRequest, caller: Caller) -> node_pb2.ListNodesResponse:
        if request.region:
            parse(request.region, "regions/*", "region")
        rows = self._state.nodes.items()
        if request.region:
            rows = [pair for pair in rows if pair[1].region == request.region]
        chosen, token = listing.page(request, rows, shown=self.shown)
        return node_pb2.ListNodesResponse(nodes=chosen, next_page_token=token)

    async def get_node(self, request: node_pb2.GetNodeRequest, caller: Caller) -> node_pb2.Node:
        parse(request.name, "nodes/*")
        return self.shown(self._state.nodes.need(request.name))

    async def update_node(self, request: node_pb2.UpdateNodeRequest, caller: Caller) -> node_pb2.Node:
        async def act() -> node_pb2.Node:
            name = request.node.name
            parse(name, "nodes/*", "node.name")

            def build(batch: Batch) -> node_pb2.Node:
                row = self._state.nodes.copy(name)
                check_etag(name, request.node.etag, self._state.nodes.revision(name))
                merge(row, request.node, request.update_mask, _OWN, "node")
                row.addresses[:] = check_addresses(row.addresses, "node.addresses")
                if not request.validate_only:
                    batch.put(self._state.nodes, name, row)
                    batch.event("NodeUpdated", f"{caller.principal} changed {name}", name, row.region)
                return row

            row = await self._context.change(build)
            return self.shown(row if request.validate_only else self._state.nodes.need(name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def delete_node(self, request: node_pb2.DeleteNodeRequest, caller: Caller) -> empty_pb2.Empty:
        async def act() -> empty_pb2.Empty:
            parse(request.name, "nodes/*")
            node_id = last_part(request.name)

            def build(batch: Batch) -> None:
                row = self._state.nodes.need(request.name)
                if not request.force:
                    self.check_unused(row)
                self._fence(batch, request.name)
                batch.delete(self._state.nodes, request.name)
                message = f"{caller.principal} removed node {node_id}"
                batch.event("NodeRemoved", message, request.name, row.region, severity=event_pb2.SEVERITY_WARNING)

            if request.validate_only:
                build(Batch())
                return empty_pb2.Empty()
            await self._context.change(build)
            self._context.hub.end(node_id, agent_pb2.GOODBYE_REASON_REVOKED, "this node was removed")
            self._context.observed.forget(node_id)
            return empty_pb2.Empty()

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def check_unused(self, node: node_pb2.Node) -> None:
        """Raises FAILED_PRECONDITION when a node is connected or holds replicas."""
        node_id = last_part(node.name)
        held = sum(1 for row in self._state.assignments.values() if row.node == node.name)
        connected = any(
            facts.connected for (known, _), facts in self._context.observed.sessions.items() if known == node_id
        )
        if connected or held:
            what = "is connected" if connected else f"holds {held} replicas"
            raise failed_precondition("NODE_IN_USE", f"{node.name} {what}: stop it first, or remove it with force")

    def _fence(self, batch: Batch, node: str) -> None:
        """Singletons on a node that leaves the fleet are not given away before it must have stopped them."""
        for key, row in self._state.assignments.items():
            app = self._state.apps.get(f"apps/{row.app}") if row.node == node else None
            if app is None or not app.manifest.placement.singleton:
                continue
            manifest = self._context.manifests.of(self._state.releases.need(app.target_release))
            views = self._context.views()
            fenced = self._state.assignments.copy(key)
            until = self._context.steady() + views.patient(app, manifest).placement.lost_after_s
            fenced.fence_time.CopyFrom(decode.timestamp(until))
            batch.put(self._state.assignments, key, fenced)

    async def cordon_node(self, request: node_pb2.CordonNodeRequest, caller: Caller) -> node_pb2.Node:
        return await self._set_cordoned(request, True, caller)

    async def uncordon_node(self, request: node_pb2.UncordonNodeRequest, caller: Caller) -> node_pb2.Node:
        return await self._set_cordoned(request, False, caller)

    async def _set_cordoned(
        self, request: node_pb2.CordonNodeRequest | node_pb2.UncordonNodeRequest, cordoned: bool, caller: Caller
    ) -> node_pb2.Node:
        name = request.name
        parse(name, "nodes/*")

        def build(batch: Batch) -> node_pb2.Node:
            row = self._state.nodes.copy(name)
            if row.cordoned != cordoned:
                row.cordoned = cordoned
                batch.put(self._state.nodes, name, row)
                kind = "NodeCordoned" if cordoned else "NodeUncordoned"
                verb = "cordoned" if cordoned else "uncordoned"
                batch.event(kind, f"{caller.principal} {verb} {name}", name, row.region)
            return row

        return await self._changed(request, build)

    async def _changed(self, request: Any, build: Callable[[Batch], node_pb2.Node]) -> node_pb2.Node:
        """The node after a change; with `validate_only` as it would be, and nothing is changed."""
        if request.validate_only:
            return self.shown(build(Batch()))
        await self._context.change(build)
        return self.shown(self._state.nodes.need(request.name))

    def check_drainable(self, row: node_pb2.Node) -> None:
        """Raises FAILED_PRECONDITION when a node is not there to be drained."""
        if decode.condition_of(row) not in (Condition.READY, Condition.SUSPECT, Condition.DRAINING):
            message = f"{row.name} is {decode.condition_of(row).value}: only a node that is there can be drained"
            raise failed_precondition("NODE_CONDITION", message)

    async def drain_node(self, request: node_pb2.DrainNodeRequest, caller: Caller) -> node_pb2.Node:
        parse(request.name, "nodes/*")
        deadline_s = decode.span_s(request.deadline) or _DRAIN_S
        if not 1 <= deadline_s <= _DRAIN_S_MAX:
            raise invalid("deadline", f"deadline: {deadline_s:g} s must be from 1 s to 24 h")

        def build(batch: Batch) -> node_pb2.Node:
            row = self._state.nodes.copy(request.name)
            self.check_drainable(row)
            row.cordoned = True
            row.condition = node_pb2.NODE_CONDITION_DRAINING
            row.condition_reason = request.reason or f"{caller.principal} drains it"
            row.condition_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            row.drain_deadline_time.CopyFrom(decode.timestamp(self._context.steady() + deadline_s))
            batch.put(self._state.nodes, row.name, row)
            message = f"{caller.principal} drains {row.name} within {deadline_s:g} s: {row.condition_reason}"
            batch.event("NodeDraining", message, row.name, row.region)
            return row

        return await self._changed(request, build)

    async def undrain_node(self, request: node_pb2.UndrainNodeRequest, caller: Caller) -> node_pb2.Node:
        parse(request.name, "nodes/*")

        def build(batch: Batch) -> node_pb2.Node:
            row = self._state.nodes.copy(request.name)
            if row.condition != node_pb2.NODE_CONDITION_DRAINING:
                raise failed_precondition("NODE_CONDITION", f"{row.name} does not drain")
            row.cordoned = False
            # Judged anew with the next look: suspect is what a node is that has not been heard.
            row.condition = node_pb2.NODE_CONDITION_SUSPECT
            row.condition_reason = f"{caller.principal} ended its drain"
            row.condition_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            row.ClearField("drain_deadline_time")
            batch.put(self._state.nodes, row.name, row)
            batch.event("NodeUndrained", f"{caller.principal} ended the drain of {row.name}", row.name, row.region)
            return row

        return await self._changed(request, build)

    async def revoke_node(self, request: node_pb2.RevokeNodeRequest, caller: Caller) -> node_pb2.Node:
        parse(request.name, "nodes/*")
        reason = request.reason or f"revoked by {caller.principal}"

        def build(batch: Batch) -> node_pb2.Node:
            row = self._state.nodes.copy(request.name)
            row.condition = node_pb2.NODE_CONDITION_REVOKED
            row.condition_reason = reason
            row.condition_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            batch.put(self._state.nodes, request.name, row)
            self._fence(batch, row.name)
            message = f"{caller.principal} revoked {request.name}: {reason}"
            batch.event("NodeRevoked", message, request.name, row.region, severity=event_pb2.SEVERITY_WARNING)
            return row

        node = await self._changed(request, build)
        if not request.validate_only:
            self._context.hub.end(last_part(request.name), agent_pb2.GOODBYE_REASON_REVOKED, f"revoked: {reason}")
        return node

    def shown(self, row: node_pb2.Node) -> node_pb2.Node:
        """The stored node with what was only observed."""
        result = node_pb2.Node()
        result.CopyFrom(row)
        node_id = last_part(row.name)
        for session in result.sessions:
            facts = self._context.observed.sessions.get((node_id, session.role))
            if facts is None:
                session.connected = False
                continue
            session.connected = facts.connected
            if facts.heard_at is not None:
                session.last_seen_time.CopyFrom(decode.timestamp(facts.heard_wall))
            session.sent_revision = facts.sent_revision
            session.accepted_revision = facts.accepted_revision
            session.applied_revision = facts.applied_revision
            session.refused_reason = facts.refused_reason
            result.host_conditions.extend(facts.conditions[kind] for kind in sorted(facts.conditions))
        held = [a for a in self._state.assignments.values() if a.node == row.name and not a.stopping]
        result.assigned_replicas = len(held)
        result.healthy_replicas = sum(1 for a in held if a.healthy)
        return result
