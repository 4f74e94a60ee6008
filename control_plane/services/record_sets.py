"""Records that operators declare, one set at a time or as zone files."""

from __future__ import annotations

from typing import Final

from google.protobuf import empty_pb2

from control_plane import decode, zone_files
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from control_plane.zone_files import Declared
from fleet.errors import Code, LocciError, failed_precondition, invalid, not_found
from fleet.ids import last_part, parse
from locci.v1 import zone_pb2

_FORM: Final = "zones/*/recordSets/*"
_FILE_BYTES_MAX: Final = 1 << 20
_SETS_MAX: Final = 5_000


class RecordSetService:
    """Implements `locci.v1.RecordSetService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    def _of(self, zone: str) -> list[tuple[str, zone_pb2.RecordSet]]:
        return [(name, row) for name, row in self._state.record_sets.items() if name.startswith(f"{zone}/")]

    def _declared(self, zone: str) -> dict[str, Declared]:
        return {last_part(name): _declared(row) for name, row in self._of(zone)}

    def _hostnames(self) -> set[str]:
        published = self._context.controller.publication
        return {hostname.hostname for hostname in published.hostnames} if published else set()

    async def list_record_sets(
        self, request: zone_pb2.ListRecordSetsRequest, caller: Caller
    ) -> zone_pb2.ListRecordSetsResponse:
        parse(request.parent, "zones/*", "parent")
        self._state.zones.need(request.parent)
        rows, token = listing.page(request, self._of(request.parent))
        return zone_pb2.ListRecordSetsResponse(record_sets=rows, next_page_token=token)

    async def get_record_set(self, request: zone_pb2.GetRecordSetRequest, caller: Caller) -> zone_pb2.RecordSet:
        parse(request.name, _FORM)
        return self._state.record_sets.need(request.name)

    async def update_record_set(self, request: zone_pb2.UpdateRecordSetRequest, caller: Caller) -> zone_pb2.RecordSet:
        async def act() -> zone_pb2.RecordSet:
            origin, identifier = parse(request.record_set.name, _FORM, "record_set.name")
            kind, owner = zone_files.parse_id(identifier, "record_set.name")
            given = request.record_set
            declared = zone_files.check(origin, kind, owner, given.ttl.seconds, given.data)
            zone = f"zones/{origin}"
            row = self._row(zone, declared)

            def build(batch: Batch) -> None:
                self._state.zones.need(zone)
                others = self._declared(zone)
                known = self._state.record_sets.get(row.name)
                if given.etag and given.etag != (known.etag if known else ""):
                    raise LocciError(
                        Code.ABORTED, "ETAG_MISMATCH", f"{row.name} has changed: read it again, then retry"
                    )
                if known is None and len(others) >= _SETS_MAX:
                    raise failed_precondition("ZONE_FULL", f"{zone} has {_SETS_MAX} record sets already")
                self._refuse_conflict(declared, others, origin)
                if request.validate_only:
                    return
                if known is not None:
                    row.create_time.CopyFrom(known.create_time)
                batch.put(self._state.record_sets, row.name, row)
                batch.event("RecordSetChanged", f"{caller.principal} declared {row.name}", row.name, zone)

            await self._context.change(build)
            return row if request.validate_only else self._state.record_sets.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _refuse_conflict(self, declared: Declared, others: dict[str, Declared], origin: str) -> None:
        rest = {key: other for key, other in others.items() if key != declared.id}
        why = zone_files.conflict(declared, rest, self._hostnames(), origin)
        if why:
            raise failed_precondition("RECORDS_CONFLICT", f"zones/{origin}/recordSets/{declared.id}: {why}")

    def _row(self, zone: str, declared: Declared) -> zone_pb2.RecordSet:
        row = zone_pb2.RecordSet(
            name=f"{zone}/recordSets/{declared.id}", owner=declared.owner, type=declared.type, data=declared.data
        )
        if declared.ttl_s:
            row.ttl.FromSeconds(declared.ttl_s)
        row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
        return row

    async def delete_record_set(self, request: zone_pb2.DeleteRecordSetRequest, caller: Caller) -> empty_pb2.Empty:
        origin, _ = parse(request.name, _FORM)

        def build(batch: Batch) -> None:
            known = self._state.record_sets.need(request.name)
            if request.etag and request.etag != known.etag:
                raise LocciError(
                    Code.ABORTED, "ETAG_MISMATCH", f"{request.name} has changed: read it again, then retry"
                )
            batch.delete(self._state.record_sets, request.name)
            batch.event(
                "RecordSetDeleted", f"{caller.principal} removed {request.name}", request.name, f"zones/{origin}"
            )

        await self._context.change(build)
        return empty_pb2.Empty()

    async def import_zone(self, request: zone_pb2.ImportZoneRequest, caller: Caller) -> zone_pb2.ImportZoneResponse:
        async def act() -> zone_pb2.ImportZoneResponse:
            (origin,) = parse(request.name, "zones/*")
            if request.name not in self._state.zones:
                raise not_found(request.name)
            if len(request.content.encode()) > _FILE_BYTES_MAX:
                raise invalid("content", f"content: larger than {_FILE_BYTES_MAX} bytes")
            wanted, skipped = zone_files.read_file(request.content, origin)

            def build(batch: Batch) -> zone_pb2.ImportZoneResponse:
                return self._import(batch, request, origin, wanted, skipped, caller)

            return await self._context.change(build)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _import(
        self,
        batch: Batch,
        request: zone_pb2.ImportZoneRequest,
        origin: str,
        wanted: list[Declared],
        skipped: list[str],
        caller: Caller,
    ) -> zone_pb2.ImportZoneResponse:
        """All of the file or nothing: what cannot stand beside the rest refuses the whole."""
        zone = request.name
        self._state.zones.need(zone)
        before = self._declared(zone)
        after = {} if request.replace else dict(before)
        after |= {declared.id: declared for declared in wanted}
        if len(after) > _SETS_MAX:
            raise failed_precondition("ZONE_FULL", f"{zone} would have {len(after)} record sets, more than {_SETS_MAX}")
        for declared in wanted:
            self._refuse_conflict(declared, after, origin)
        removed = sorted(before.keys() - after.keys())
        changed = sorted(key for key in after.keys() & before.keys() if after[key] != before[key])
        added = sorted(after.keys() - before.keys())
        response = zone_pb2.ImportZoneResponse(
            added=[f"{zone}/recordSets/{key}" for key in added],
            changed=[f"{zone}/recordSets/{key}" for key in changed],
            removed=[f"{zone}/recordSets/{key}" for key in removed],
            skipped=skipped,
        )
        if request.validate_only or not (added or changed or removed):
            return response
        for key in (*added, *changed):
            row = self._row(zone, after[key])
            batch.put(self._state.record_sets, row.name, row)
        for key in removed:
            batch.delete(self._state.record_sets, f"{zone}/recordSets/{key}")
        counts = f"{len(added)} new, {len(changed)} changed, {len(removed)} removed"
        batch.event("ZoneImported", f"{caller.principal} imported {zone}: {counts}", zone)
        return response

    async def export_zone(self, request: zone_pb2.ExportZoneRequest, caller: Caller) -> zone_pb2.ExportZoneResponse:
        (origin,) = parse(request.name, "zones/*")
        self._state.zones.need(request.name)
        published = self._context.controller.publication
        data = next((z for z in published.zones if z.origin == origin), None) if published else None
        if data is None:
            raise failed_precondition("NOT_PUBLISHED", f"{request.name} is not published so far: ask again in a moment")
        servers = {server.hostname: list(server.addresses) for server in data.name_servers}
        primary = next(iter(servers), origin)
        contact = data.contact.replace("@", ".")
        soa = f"{primary}. {contact}. {data.serial} 3600 600 604800 {data.negative_ttl.seconds}"
        apps = sorted(h for h in self._hostnames() if h == origin or h.endswith(f".{origin}"))
        declared = self._declared(request.name).values()
        content = zone_files.write_file(origin, soa, data.ttl.seconds, servers, declared, apps)
        return zone_pb2.ExportZoneResponse(content=content)


def _declared(row: zone_pb2.RecordSet) -> Declared:
    return Declared(row.owner, row.type, row.ttl.seconds, tuple(row.data))
