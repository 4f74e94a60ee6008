"""Overloaded regions send a share of their clients elsewhere, by orders to the DNS servers that end by themselves."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Final

import structlog

from control_plane import decode
from control_plane.core.shedding import RegionLoad, shares
from control_plane.observed import Observed
from control_plane.state import Batch, State
from fleet.clock import Clock
from fleet.errors import LocciError
from fleet.ids import last_part
from locci.v1 import event_pb2, node_pb2, region_pb2, resource_pb2, routing_pb2

log = structlog.get_logger()

CREATOR: Final = "load-shedding"
"""Who the orders are by; an operator's order about the region takes their place."""
LOOK_S: Final = 30.0
"""The load average of a minute must have time to follow."""
_HOLDS_S: Final = 120.0
"""Without a control plane nobody is sent away for longer."""


class LoadShedding:
    """Looks at the load of regions; acts only while this process leads."""

    def __init__(
        self, state: State, observed: Observed, clock: Clock, *, wake: Callable[[], None], leads: Callable[[], bool]
    ):
        self._state = state
        self._observed = observed
        self._clock = clock
        self._wake = wake
        self._leads = leads

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                if self._leads():
                    await self.look()
            except LocciError as error:
                log.warning("load_not_shed", reason=error.message)
            except Exception:
                log.exception("load_not_shed")

    async def look(self) -> None:
        """Has more or fewer clients sent away, a step at most."""
        now = self._clock.wall()
        regions = {row.name: row for row in self._state.regions.values()}
        if not any(row.load_high for row in regions.values()):
            return
        loads = [self._load_of(row, now) for row in regions.values()]
        wanted = {name: percent for name, percent in shares(loads).items() if not self._is_ordered(name, now)}
        before = {load.region: load for load in loads}

        def build(batch: Batch) -> None:
            for name, percent in wanted.items():
                self._order(batch, before[name], percent, now)

        if any(percent or before[name].percent for name, percent in wanted.items()):
            await self._state.transact(build)
            self._wake()

    def _load_of(self, region: region_pb2.Region, now: float) -> RegionLoad:
        ready, edge = node_pb2.NODE_CONDITION_READY, node_pb2.NODE_ROLE_EDGE
        found = []
        for node in self._state.nodes.values():
            if node.region == region.name and node.condition == ready and edge in node.roles:
                facts = self._observed.leading(node, last_part(node.name))
                if facts is not None and facts.connected and facts.heartbeat.sequence:
                    found.append(facts.heartbeat.load)
        row = self._row(region.name, now)
        percent = row.percent if row is not None and row.creator == CREATOR else 0
        load = fmean(found) if found else None
        return RegionLoad(region.name, load, region.load_high, region.load_low, percent)

    def _row(self, region: str, now: float) -> routing_pb2.RoutingOverride | None:
        row = self._state.overrides.get(_name(region))
        return row if row is not None and now < row.expire_time.seconds else None

    def _is_ordered(self, region: str, now: float) -> bool:
        """Whether an operator's order holds."""
        row = self._row(region, now)
        return row is not None and row.creator != CREATOR

    def _order(self, batch: Batch, before: RegionLoad, percent: int, now: float) -> None:
        assert before.load is not None
        name, region = _name(before.region), before.region
        message = f"{region}: {before.percent} % of its clients were sent elsewhere, {percent} % are from now on; its "
        message += f"load is {before.load:.2f} per processor (marks {before.low_mark:.2f} and {before.high:.2f})"
        if percent != before.percent:
            severity = event_pb2.SEVERITY_WARNING if percent > before.percent else event_pb2.SEVERITY_INFO
            batch.event("RegionShedsLoad", message, region, severity=severity)
        if not percent:
            if name in self._state.overrides:
                batch.delete(self._state.overrides, name)
            return
        row = routing_pb2.RoutingOverride(
            name=name,
            target=region,
            mode=resource_pb2.OVERRIDE_MODE_DRAIN,
            percent=percent,
            reason=f"load {before.load:.2f} per processor; clients come back below {before.low_mark:.2f}",
            creator=CREATOR,
        )
        row.create_time.CopyFrom(decode.timestamp(now))
        row.expire_time.CopyFrom(decode.timestamp(now + _HOLDS_S))
        batch.put(self._state.overrides, name, row)


def _name(region: str) -> str:
    return f"routingOverrides/{region.replace('/', '-')}"
