"""What edges measure of client networks becomes a part of the routing table, while an app steers by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from control_plane.core.latency import Known, Published, part_of, published
from control_plane.observed import Observed
from control_plane.state import Batch, State
from control_plane.views import Manifests
from fleet.clock import Clock
from fleet.errors import LocciError
from fleet.ids import last_part
from locci.v1 import resource_pb2

log = structlog.get_logger()

LOOK_S: Final = 60.0
_DAY_S: Final = 86_400


class ClientLatencies:
    """Looks at what was measured; acts only while this process leads."""

    def __init__(
        self,
        state: State,
        observed: Observed,
        manifests: Manifests,
        clock: Clock,
        *,
        wake: Callable[[], None],
        leads: Callable[[], bool],
    ):
        self._state = state
        self._observed = observed
        self._manifests = manifests
        self._clock = clock
        self._wake = wake
        self._leads = leads
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                if self._leads():
                    await self.look()
            except LocciError as error:
                log.warning("latencies_not_published", reason=error.message)
            except Exception:
                log.exception("latencies_not_published")

    async def look(self) -> None:
        """Stores the parts of the table that have changed; all go when no app steers by them any more."""
        rows, now = self._state.client_latencies, self._clock.monotonic()
        wanted: dict[str, resource_pb2.ClientLatencies] = {}
        used = self._are_used()
        if used:
            regions = frozenset(map(last_part, self._state.regions))
            today = int(self._clock.wall()) // _DAY_S
            wanted = _parts(published(self._known(), self._observed.latencies, regions, today, self._looked_at))
        self._looked_at = now if used else float("-inf")
        gone = [name for name in rows if name not in wanted]
        changed = {name: row for name, row in wanted.items() if rows.get(name) != row}

        def build(batch: Batch) -> None:
            for name in gone:
                batch.delete(rows, name)
            for name, row in changed.items():
                batch.put(rows, name, row)

        if gone or changed:
            await self._state.transact(build)
            self._wake()

    def _are_used(self) -> bool:
        releases = (self._state.releases.get(app.target_release) for app in self._state.apps.values())
        return any(r is not None and self._manifests.of(r).routing.uses("latency") for r in releases)

    def _known(self) -> Published:
        return {
            network.network: {entry.region: Known(entry.milliseconds, entry.day) for entry in network.regions}
            for row in self._state.client_latencies.values()
            for network in row.networks
        }


def _parts(table: Published) -> dict[str, resource_pb2.ClientLatencies]:
    """By the name of the resource."""
    result: dict[str, resource_pb2.ClientLatencies] = {}
    for network in sorted(table):
        row = result.setdefault(f"latencies/{part_of(network)}", resource_pb2.ClientLatencies()).networks.add()
        row.network = network
        for region, known in sorted(table[network].items()):
            row.regions.add(region=region, milliseconds=known.milliseconds, day=known.day)
    return result
