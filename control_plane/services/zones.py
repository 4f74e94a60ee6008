"""Zones, and the routing table that follows from everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from google.protobuf import empty_pb2

from control_plane import decode, zone_keys
from control_plane.resources import Publication
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag, merge
from control_plane.state import Batch
from fleet.errors import already_exists, failed_precondition, invalid
from fleet.ids import check_hostname, last_part, parse
from locci.v1 import resource_pb2, routing_pb2, zone_pb2

_TTL_S_MAX: Final = 7 * 86_400
_OWN: Final = frozenset({"contact", "ttl", "negative_ttl", "dnssec"})


class ZoneService:
    """Implements `locci.v1.ZoneService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_zones(self, request: zone_pb2.ListZonesRequest, caller: Caller) -> zone_pb2.ListZonesResponse:
        rows, token = listing.page(request, self._state.zones.items())
        return zone_pb2.ListZonesResponse(zones=rows, next_page_token=token)

    async def get_zone(self, request: zone_pb2.GetZoneRequest, caller: Caller) -> zone_pb2.Zone:
        parse(request.name, "zones/*")
        return self._state.zones.need(request.name)

    async def create_zone(self, request: zone_pb2.CreateZoneRequest, caller: Caller) -> zone_pb2.Zone:
        async def act() -> zone_pb2.Zone:
            row = zone_pb2.Zone()
            row.CopyFrom(request.zone)
            row.name = f"zones/{check_hostname(request.zone_id, 'zone_id')}"
            row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            row.ClearField("ds")
            _check(row)

            def build(batch: Batch) -> None:
                if row.name in self._state.zones:
                    raise already_exists(row.name)
                self._settle_keys(batch, row)
                batch.put(self._state.zones, row.name, row, 0)
                batch.event("ZoneCreated", f"{caller.principal} created {row.name}", row.name)

            await self._context.change(build)
            return self._state.zones.need(row.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def update_zone(self, request: zone_pb2.UpdateZoneRequest, caller: Caller) -> zone_pb2.Zone:
        async def act() -> zone_pb2.Zone:
            name = request.zone.name
            parse(name, "zones/*", "zone.name")

            def build(batch: Batch) -> zone_pb2.Zone:
                row = self._state.zones.copy(name)
                check_etag(name, request.zone.etag, self._state.zones.revision(name))
                merge(row, request.zone, request.update_mask, _OWN, "zone")
                _check(row)
                if not request.validate_only:
                    self._settle_keys(batch, row)
                    batch.put(self._state.zones, name, row)
                    batch.event("ZoneUpdated", f"{caller.principal} changed {name}", name)
                return row

            row = await self._context.change(build)
            return row if request.validate_only else self._state.zones.need(name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def add_zone_key(self, request: zone_pb2.AddZoneKeyRequest, caller: Caller) -> zone_pb2.Zone:
        async def act() -> zone_pb2.Zone:
            return await self._change_keys(request.name, zone_keys.added, f"{caller.principal} added a key to")

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def retire_zone_key(self, request: zone_pb2.RetireZoneKeyRequest, caller: Caller) -> zone_pb2.Zone:
        def retired(keys: resource_pb2.ZoneKeys) -> resource_pb2.ZoneKeys:
            return zone_keys.retired(keys, request.key_tag)

        return await self._change_keys(request.name, retired, f"{caller.principal} retired key {request.key_tag} of")

    async def _change_keys(
        self, name: str, change: Callable[[resource_pb2.ZoneKeys], resource_pb2.ZoneKeys], what: str
    ) -> zone_pb2.Zone:
        origin, vault = parse(name, "zones/*")[0], self._context.vault

        def build(batch: Batch) -> None:
            row = self._state.zones.copy(name)
            sealed = self._state.zone_keys.get(name)
            if sealed is None:
                message = f"{name} is not signed: `locci zones update {origin} --dnssec` signs it"
                raise failed_precondition("NOT_SIGNED", message)
            keys = change(zone_keys.unseal(vault, origin, sealed))
            self._put_keys(batch, row, keys)
            batch.put(self._state.zones, name, row)
            batch.event("ZoneKeysChanged", f"{what} {name}", name)

        await self._context.change(build)
        return self._state.zones.need(name)

    def _settle_keys(self, batch: Batch, row: zone_pb2.Zone) -> None:
        """A signed zone has a key, any other has none."""
        has_keys = row.name in self._state.zone_keys
        if row.dnssec and not has_keys:
            self._put_keys(batch, row, resource_pb2.ZoneKeys(origin=last_part(row.name), keys=[zone_keys.fresh()]))
        elif not row.dnssec and has_keys:
            batch.delete(self._state.zone_keys, row.name)
            row.ClearField("ds")

    def _put_keys(self, batch: Batch, row: zone_pb2.Zone, keys: resource_pb2.ZoneKeys) -> None:
        row.ClearField("ds")
        row.ds.extend(zone_keys.ds(keys.origin, key) for key in keys.keys)
        batch.put(self._state.zone_keys, row.name, zone_keys.seal(self._context.vault, keys))

    async def delete_zone(self, request: zone_pb2.DeleteZoneRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "zones/*")

        def build(batch: Batch) -> None:
            self._state.zones.need(request.name)
            batch.delete(self._state.zones, request.name)
            if request.name in self._state.zone_keys:
                batch.delete(self._state.zone_keys, request.name)
            for name in self._state.record_sets:
                if name.startswith(f"{request.name}/"):
                    batch.delete(self._state.record_sets, name)
            batch.event("ZoneDeleted", f"{caller.principal} removed {request.name}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()


def _check(zone: zone_pb2.Zone) -> None:
    if zone.contact and zone.contact.count("@") != 1:
        raise invalid("zone.contact", f"zone.contact: {zone.contact!r} is no mail address")
    for path, value in (("zone.ttl", zone.ttl), ("zone.negative_ttl", zone.negative_ttl)):
        if not 0 <= decode.span_s(value) <= _TTL_S_MAX:
            raise invalid(path, f"{path}: {value.seconds}s must be at most 7 days")


class RoutingService:
    """Implements `locci.v1.RoutingService`."""

    def __init__(self, context: Context):
        self._context = context

    async def get_routing_table(
        self, request: routing_pb2.GetRoutingTableRequest, caller: Caller
    ) -> routing_pb2.RoutingTable:
        return self._table()

    async def watch_routing_table(
        self, request: routing_pb2.GetRoutingTableRequest, caller: Caller
    ) -> AsyncIterator[routing_pb2.RoutingTable]:
        before: routing_pb2.RoutingTable | None = None
        while True:
            changed = self._context.controller.next_publication()
            table = self._table()
            if before is None or _content(table) != _content(before):
                before = table
                yield table
            await changed.wait()

    def _table(self) -> routing_pb2.RoutingTable:
        published = self._context.controller.publication
        if published is not None and published.revision == self._context.state.revision:
            return published.table()
        context = self._context
        return Publication(context.state, context.observed, context.manifests, context.views()).table()


def _content(table: routing_pb2.RoutingTable) -> bytes:
    """The table without the revision that it shows."""
    content = routing_pb2.RoutingTable()
    content.CopyFrom(table)
    content.revision = 0
    return content.SerializeToString(deterministic=True)
