"""Taking back what edges have stored: orders go with node snapshots, and nodes say when their edges serve by them."""

from __future__ import annotations

from control_plane import decode
from control_plane.core import purges
from control_plane.core.purges import Order
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import failed_precondition
from fleet.ids import last_part, parse
from locci.v1 import node_pb2, purge_pb2


class PurgeService:
    """Implements `locci.v1.PurgeService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def create_purge(self, request: purge_pb2.CreatePurgeRequest, caller: Caller) -> purge_pb2.Purge:
        async def act() -> purge_pb2.Purge:
            parse(request.parent, "apps/*", "parent")
            row = self._row(request, caller)

            def build(batch: Batch) -> None:
                self._state.apps.need(request.parent)
                self._remember(batch, request.parent, row)
                kind, value = _what(row)
                what = f"{kind} {value}" if kind else "everything"
                message = f"{caller.principal} purges {what} of {request.parent}{' softly' if row.soft else ''}"
                batch.event("CachePurged", message, request.parent)

            await self._context.change(build)
            return self._shown(self._state.purges.need(row.name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def get_purge(self, request: purge_pb2.GetPurgeRequest, caller: Caller) -> purge_pb2.Purge:
        parse(request.name, "apps/*/purges/*")
        return self._shown(self._state.purges.need(request.name))

    async def list_purges(self, request: purge_pb2.ListPurgesRequest, caller: Caller) -> purge_pb2.ListPurgesResponse:
        parse(request.parent, "apps/*", "parent")
        self._state.apps.need(request.parent)
        rows = [(name, row) for name, row in self._state.purges.items() if name.startswith(f"{request.parent}/")]
        found, token = listing.page(request, rows, shown=self._shown)
        return purge_pb2.ListPurgesResponse(purges=found, next_page_token=token)

    def _row(self, request: purge_pb2.CreatePurgeRequest, caller: Caller) -> purge_pb2.Purge:
        app, given = self._state.apps.need(request.parent), request.purge
        release = self._state.releases.get(app.target_release)
        hostnames = self._context.manifests.of(release).hostnames if release is not None else ()
        if not hostnames:
            message = f"{request.parent} has no host names, so no edge stores anything of it"
            raise failed_precondition("NOT_SERVED", message)
        row = purge_pb2.Purge(soft=given.soft, creator=caller.principal)
        match given.WhichOneof("what"):
            case "url":
                purges.check_url(given.url, "purge.url", hostnames)
                row.url = given.url
            case "prefix":
                purges.check_url(given.prefix, "purge.prefix", hostnames)
                row.prefix = given.prefix
            case "tag":
                purges.check_tag(given.tag, "purge.tag")
                row.tag = given.tag
        row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
        return row

    def _remember(self, batch: Batch, app: str, row: purge_pb2.Purge) -> None:
        """Gives it its sequence, and forgets what need not be remembered beside it."""
        known = {name: found for name, found in self._state.purges.items() if name.startswith(f"{app}/")}
        newest = max((sequence_of(name) for name in known), default=0)
        sequence = max(newest, self._state.revision) + 1
        row.name = f"{app}/purges/{sequence:015d}"
        orders = [_order(name, found) for name, found in known.items()]
        dropped, floor = purges.superfluous(orders, _order(row.name, row))
        row.floor = max([floor, *(found.floor for found in known.values())])
        for gone in dropped:
            batch.delete(self._state.purges, f"{app}/purges/{gone:015d}")
        batch.put(self._state.purges, row.name, row, 0)

    def _shown(self, row: purge_pb2.Purge) -> purge_pb2.Purge:
        """With who has done it."""
        result = purge_pb2.Purge()
        result.CopyFrom(row)
        revision, role = self._state.purges.revision(row.name), node_pb2.NODE_ROLE_EDGE
        result.done = True
        for node in self._state.nodes.values():
            if role not in node.roles:
                continue
            facts = self._context.observed.sessions.get((last_part(node.name), role))
            if facts is None or facts.edge_revision < revision:
                result.waiting_nodes.append(node.name)
                result.done = result.done and not (facts is not None and facts.connected)
        return result


def sequence_of(name: str) -> int:
    """The sequence in the name of a purge."""
    return int(last_part(name))


def _what(row: purge_pb2.Purge) -> tuple[str, str]:
    kind = row.WhichOneof("what")
    return ("", "") if kind is None else (kind, str(getattr(row, kind)))


def _order(name: str, row: purge_pb2.Purge) -> Order:
    return Order(sequence_of(name), _what(row), row.soft, row.create_time.seconds)
