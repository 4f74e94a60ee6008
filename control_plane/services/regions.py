"""Regions: the operators' list of places."""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import empty_pb2

from control_plane import decode, upgrades
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag, merge
from control_plane.state import Batch
from fleet.errors import already_exists, failed_precondition, invalid
from fleet.ids import REGION_ID_LENGTH_MAX, check_id, last_part, parse
from locci.v1 import node_pb2, region_pb2

_CONTINENTS: Final = frozenset({"AF", "AN", "AS", "EU", "NA", "OC", "SA"})
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")
_OWN: Final = frozenset(
    {
        "display_name",
        "latitude",
        "longitude",
        "continent",
        "country",
        "jurisdictions",
        "networks",
        "labels",
        "agent_version",
        "bias_km",
        "load_high",
        "load_low",
    }
)
_LOAD_MAX: Final = 1000.0


class RegionService:
    """Implements `locci.v1.RegionService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_regions(self, request: region_pb2.ListRegionsRequest, caller: Caller) -> Any:
        rows, token = listing.page(request, self._state.regions.items(), shown=self._shown_with(self._ready()))
        return region_pb2.ListRegionsResponse(regions=rows, next_page_token=token)

    async def get_region(self, request: region_pb2.GetRegionRequest, caller: Caller) -> region_pb2.Region:
        parse(request.name, "regions/*")
        return self.shown(self._state.regions.need(request.name))

    async def create_region(self, request: region_pb2.CreateRegionRequest, caller: Caller) -> region_pb2.Region:
        async def act() -> region_pb2.Region:
            region_id = check_id(request.region_id, "region_id", REGION_ID_LENGTH_MAX)
            row = region_pb2.Region()
            row.CopyFrom(request.region)
            row.name = f"regions/{region_id}"
            row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            _check(row)

            def build(batch: Batch) -> None:
                if row.name in self._state.regions:
                    raise already_exists(row.name)
                if not request.validate_only:
                    batch.put(self._state.regions, row.name, row, 0)
                    batch.event("RegionCreated", f"{caller.principal} created {row.name}", row.name)

            await self._context.change(build)
            return row if request.validate_only else self.shown(self._state.regions.need(row.name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def update_region(self, request: region_pb2.UpdateRegionRequest, caller: Caller) -> region_pb2.Region:
        async def act() -> region_pb2.Region:
            name = request.region.name
            parse(name, "regions/*", "region.name")

            def build(batch: Batch) -> region_pb2.Region:
                row = self._state.regions.copy(name)
                check_etag(name, request.region.etag, self._state.regions.revision(name))
                merge(row, request.region, request.update_mask, _OWN, "region")
                _check(row)
                if row.agent_version != self._state.regions.need(name).agent_version:
                    self._name_version(Batch() if request.validate_only else batch, name)
                if not request.validate_only:
                    batch.put(self._state.regions, name, row)
                    batch.event("RegionUpdated", f"{caller.principal} changed {name}", name)
                return row

            row = await self._context.change(build)
            return self.shown(row if request.validate_only else self._state.regions.need(name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _name_version(self, batch: Batch, name: str) -> None:
        """An operator names an agent: upgrades that ended count no more. Raises while one goes on."""
        going_on = upgrades.under_way(self._state)
        if going_on is not None:
            message = (
                f"region.agent_version: {going_on.name} to {going_on.version} goes on: wait for its end, or abort it"
            )
            raise failed_precondition("UPGRADE_UNDER_WAY", message)
        nodes = [node for node in self._state.nodes.values() if node.region == name]
        upgrades.forget_names(self._state, batch, nodes)

    async def delete_region(self, request: region_pb2.DeleteRegionRequest, caller: Caller) -> empty_pb2.Empty:
        async def act() -> empty_pb2.Empty:
            parse(request.name, "regions/*")

            def build(batch: Batch) -> None:
                self._state.regions.need(request.name)
                check_etag(request.name, request.etag, self._state.regions.revision(request.name))
                self.check_unused(request.name)
                if not request.validate_only:
                    batch.delete(self._state.regions, request.name)
                    batch.event("RegionDeleted", f"{caller.principal} removed {request.name}", request.name)

            await self._context.change(build)
            return empty_pb2.Empty()

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def check_unused(self, name: str) -> None:
        """Raises FAILED_PRECONDITION when a region holds nodes, or an app names it."""
        nodes = [node.name for node in self._state.nodes.values() if node.region == name]
        if nodes:
            raise failed_precondition("REGION_IN_USE", f"{name} holds {', '.join(nodes[:5])}: remove its nodes first")
        region_id = last_part(name)
        for app in self._state.apps.values():
            manifest = app.manifest
            named = [region for wave in manifest.rollout.waves for region in wave.regions]
            named += [*manifest.placement.regions, *manifest.routing.order, *manifest.rollout.canary_regions]
            if region_id in named:
                message = f"{app.name} names {name}: apply a manifest without it first"
                raise failed_precondition("REGION_IN_USE", message)

    def shown(self, row: region_pb2.Region) -> region_pb2.Region:
        """The stored region with what follows from its nodes."""
        return self._shown_with(self._ready())(row)

    def _ready(self) -> Counter[str]:
        """By name of the region, how many of its nodes are ready."""
        ready = node_pb2.NODE_CONDITION_READY
        return Counter(node.region for node in self._state.nodes.values() if node.condition == ready)

    def _shown_with(self, ready: Counter[str]) -> Callable[[region_pb2.Region], region_pb2.Region]:
        def shown(row: region_pb2.Region) -> region_pb2.Region:
            result = region_pb2.Region()
            result.CopyFrom(row)
            result.ready_nodes = ready[row.name]
            return result

        return shown


def _check(region: region_pb2.Region) -> None:
    for field, value, limit in (("latitude", region.latitude, 90), ("longitude", region.longitude, 180)):
        if not math.isfinite(value) or abs(value) > limit:
            path = f"region.{field}"
            raise invalid(path, f"{path}: {value} must be within -{limit} and {limit}")
    if not math.isfinite(region.bias_km) or abs(region.bias_km) > 20_000:
        raise invalid("region.bias_km", f"region.bias_km: {region.bias_km} must be within -20000 and 20000")
    for field, load in (("load_high", region.load_high), ("load_low", region.load_low)):
        if not 0 <= load <= _LOAD_MAX:
            raise invalid(f"region.{field}", f"region.{field}: {load} must be from 0 to {_LOAD_MAX:g}")
    if region.load_low and region.load_low >= region.load_high:
        path = "region.load_low"
        raise invalid(path, f"{path}: {region.load_low} must be below region.load_high, which is {region.load_high}")
    if region.continent and region.continent not in _CONTINENTS:
        path = "region.continent"
        raise invalid(path, f"{path}: {region.continent!r} must be one of {', '.join(sorted(_CONTINENTS))}")
    if region.country and not re.fullmatch("[A-Z]{2}", region.country):
        raise invalid("region.country", f"region.country: {region.country!r} must be two capital letters, as in DE")
    if region.agent_version and not _VERSION.fullmatch(region.agent_version):
        path = "region.agent_version"
        raise invalid(path, f"{path}: {region.agent_version!r} is no version such as 0.2.0")
    for index, network in enumerate(region.networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            path = f"region.networks[{index}]"
            raise invalid(path, f"{path}: {network!r} is no network such as 192.0.2.0/24") from error
