"""Replicas: what placement made, and what became of it."""

from __future__ import annotations

from collections.abc import Callable

from control_plane.core.roles import may_see
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.views import resource_name
from fleet.errors import not_found
from fleet.ids import last_part, parse
from locci.v1 import node_pb2, replica_pb2


class ReplicaService:
    """Implements `locci.v1.ReplicaService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_replicas(
        self, request: replica_pb2.ListReplicasRequest, caller: Caller
    ) -> replica_pb2.ListReplicasResponse:
        (app_id,) = parse(request.parent, "apps/*", "parent")
        if app_id != "-":
            self._state.apps.need(request.parent)
        if request.node:
            parse(request.node, "nodes/*", "node")
        rows = [
            (key, row)
            for key, row in self._state.assignments.items()
            if app_id in ("-", row.app) and request.node in ("", row.node) and may_see(caller.scopes, row.name)
        ]
        chosen, token = listing.page(request, rows, shown=self.shown_by_name())
        return replica_pb2.ListReplicasResponse(replicas=chosen, next_page_token=token)

    async def get_replica(self, request: replica_pb2.GetReplicaRequest, caller: Caller) -> replica_pb2.Replica:
        parse(request.name, "apps/*/replicas/*")
        name, _, node = request.name.partition("@")
        found = [r for r in self._state.assignments.values() if r.name == name and node in ("", last_part(r.node))]
        if not found:
            raise not_found(request.name)
        return self.shown_by_name()(min(found, key=_weight))

    async def list_replica_usage(
        self, request: replica_pb2.ListReplicaUsageRequest, caller: Caller
    ) -> replica_pb2.ListReplicaUsageResponse:
        (app_id,) = parse(request.parent, "apps/*", "parent")
        if app_id != "-":
            self._state.apps.need(request.parent)
        used = {
            (node, resource): usage
            for (node, _), facts in self._context.observed.sessions.items()
            for resource, usage in facts.usage.items()
        }
        show = self.shown_by_name()
        answer = replica_pb2.ListReplicaUsageResponse()
        for row in self._state.assignments.values():
            usage = used.get((last_part(row.node), resource_name(row)))
            if usage is not None and app_id in ("-", row.app) and may_see(caller.scopes, row.name):
                name = show(row).name
                answer.usage.add(replica=name, node=row.node, cpus=usage.cpus, memory_bytes=usage.memory_bytes)
        return answer

    def shown_by_name(self) -> Callable[[replica_pb2.Replica], replica_pb2.Replica]:
        """What makes of a stored assignment what callers see. During a move and after a loss several have one ordinal
        and release: the one that counts most has the plain name, the others one with their node."""
        plain: dict[str, replica_pb2.Replica] = {}
        for row in self._state.assignments.values():
            first = plain.setdefault(row.name, row)
            if first is not row:
                plain[row.name] = min(first, row, key=_weight)

        def show(row: replica_pb2.Replica) -> replica_pb2.Replica:
            first = plain.get(row.name, row)
            return self._shown(row, row.name if first.node == row.node else f"{row.name}@{last_part(row.node)}")

        return show

    def _shown(self, row: replica_pb2.Replica, api_name: str) -> replica_pb2.Replica:
        """The stored assignment with what its node said."""
        result = replica_pb2.Replica()
        result.CopyFrom(row)
        result.name = api_name
        node_id = last_part(row.node)
        name = resource_name(row)
        session = self._context.observed.sessions.get((node_id, node_pb2.NODE_ROLE_EDGE))
        reported = self._context.observed.reported(node_id, name)
        node = self._state.nodes.get(row.node)
        result.accepted = session is not None and name in session.holds
        result.healthy = row.healthy and node is not None and node.condition == node_pb2.NODE_CONDITION_READY
        if reported is not None:
            result.status.CopyFrom(reported.status)
            result.applied = reported.status.phase == replica_pb2.REPLICA_PHASE_RUNNING
        return result


def _weight(row: replica_pb2.Replica) -> tuple[bool, bool, bool, str]:
    return row.stopping, row.displaced, row.leaving, row.node
