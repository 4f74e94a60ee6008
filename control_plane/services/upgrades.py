"""Upgrades of the fleet's agents: begun, watched, held, ended by operators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from control_plane import decode, upgrades
from control_plane.core.upgrade import Upgrade, aborted, paused, resumed
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import failed_precondition, invalid
from fleet.ids import last_part, parse
from locci.v1 import upgrade_pb2

VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")
UPGRADES_KEPT: Final = 50
_WAVES_MAX: Final = 100
_REASON_MAX: Final = 500
_BAKE_S_MAX: Final = 7 * 86_400.0
_DEADLINE_S_MAX: Final = 86_400.0
_GIVEN: Final = ("version", "waves", "bake", "node_deadline", "failures_max")

Row = upgrade_pb2.Upgrade


class UpgradeService:
    """Implements `locci.v1.UpgradeService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_upgrades(
        self, request: upgrade_pb2.ListUpgradesRequest, caller: Caller
    ) -> upgrade_pb2.ListUpgradesResponse:
        keyed = [(listing.number_key(int(last_part(name))), row) for name, row in self._state.upgrades.items()]
        rows = sorted(keyed, key=lambda pair: pair[0], reverse=True)
        chosen, token = listing.page(request, rows, shown=self.shown, descending=True)
        return upgrade_pb2.ListUpgradesResponse(upgrades=chosen, next_page_token=token)

    async def get_upgrade(self, request: upgrade_pb2.GetUpgradeRequest, caller: Caller) -> Row:
        parse(request.name, "upgrades/*")
        return self.shown(self._state.upgrades.need(request.name))

    async def create_upgrade(self, request: upgrade_pb2.CreateUpgradeRequest, caller: Caller) -> Row:
        async def act() -> Row:
            def build(batch: Batch) -> Row:
                row = self._fresh(request.upgrade, caller)
                self._check(row)
                if not request.validate_only:
                    batch.put(self._state.upgrades, row.name, row, 0)
                    batch.event("UpgradeStarted", f"{caller.principal} began {row.name} to {row.version}", row.name)
                    self._drop_old(batch)
                return row

            row = await self._context.change(build)
            return self.shown(row if request.validate_only else self._state.upgrades.need(row.name))

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    def _fresh(self, given: Row, caller: Caller) -> Row:
        number = 1 + max((int(last_part(name)) for name in self._state.upgrades), default=0)
        row = upgrade_pb2.Upgrade()
        for field, value in given.ListFields():
            if field.name in _GIVEN:
                if field.is_repeated:
                    getattr(row, field.name).extend(value)
                elif field.message_type is not None:
                    getattr(row, field.name).CopyFrom(value)
                else:
                    setattr(row, field.name, value)
        row.name, row.state, row.creator = f"upgrades/{number}", Row.STATE_RUNNING, caller.principal
        row.reason = "it begins with the next look at the fleet"
        row.create_time.CopyFrom(decode.timestamp(self._context.steady()))
        return row

    def _check(self, row: Row) -> None:
        """Raises INVALID_ARGUMENT for what makes no sense, FAILED_PRECONDITION when it cannot begin now."""
        if not VERSION.fullmatch(row.version):
            raise invalid("upgrade.version", f"upgrade.version: {row.version!r} is no version such as 0.2.0")
        if len(row.waves) > _WAVES_MAX:
            raise invalid("upgrade.waves", f"upgrade.waves: at most {_WAVES_MAX} waves")
        for index, wave in enumerate(row.waves):
            self._check_wave(wave, f"upgrade.waves[{index}]")
        bake_s, deadline_s = decode.span_s(row.bake), decode.span_s(row.node_deadline)
        if not 0 <= bake_s <= _BAKE_S_MAX:
            raise invalid("upgrade.bake", f"upgrade.bake: {bake_s:g} s must be from 0 s to 7 days")
        if row.HasField("node_deadline") and not 1 <= deadline_s <= _DEADLINE_S_MAX:
            path = "upgrade.node_deadline"
            raise invalid(path, f"{path}: {deadline_s:g} s must be from 1 s to 24 h")
        other = upgrades.under_way(self._state)
        if other is not None:
            message = f"{other.name} to {other.version} goes on: wait for its end, or abort it"
            raise failed_precondition("UPGRADE_UNDER_WAY", message)
        if not any(host.follows for host in upgrades.hosts_of(self._state, self._context.observed, row)):
            message = "no connected agent can be told a version: they run without `locci-agent supervise`, or are away"
            raise failed_precondition("NO_NODE_TO_UPGRADE", message)

    def _check_wave(self, wave: upgrade_pb2.UpgradeWave, path: str) -> None:
        if bool(wave.regions) + bool(wave.percent) + bool(wave.nodes) != 1:
            raise invalid(path, f"{path}: give one of regions, percent (1 to 100) and nodes")
        if wave.percent > 100:
            raise invalid(f"{path}.percent", f"{path}.percent: {wave.percent} is more than 100")
        for index, region in enumerate(wave.regions):
            parse(region, "regions/*", f"{path}.regions[{index}]")
            self._state.regions.need(region)

    def _drop_old(self, batch: Batch) -> None:
        numbers = sorted((int(last_part(name)) for name in self._state.upgrades), reverse=True)
        for number in numbers[UPGRADES_KEPT - 1 :]:
            batch.delete(self._state.upgrades, f"upgrades/{number}")

    async def pause_upgrade(self, request: upgrade_pb2.PauseUpgradeRequest, caller: Caller) -> Row:
        return await self._turn(request.name, caller, lambda upgrade: paused(upgrade, caller.principal))

    async def resume_upgrade(self, request: upgrade_pb2.ResumeUpgradeRequest, caller: Caller) -> Row:
        return await self._turn(request.name, caller, lambda upgrade: resumed(upgrade, self._context.steady()))

    async def abort_upgrade(self, request: upgrade_pb2.AbortUpgradeRequest, caller: Caller) -> Row:
        if len(request.reason) > _REASON_MAX:
            raise invalid("reason", f"reason: at most {_REASON_MAX} characters")
        reason = f"{caller.principal}: {request.reason}" if request.reason else f"{caller.principal} ended it"
        return await self._turn(request.name, caller, lambda upgrade: aborted(upgrade, reason))

    async def _turn(self, name: str, caller: Caller, turn: Callable[[Upgrade], Upgrade]) -> Row:
        parse(name, "upgrades/*")

        def build(batch: Batch) -> None:
            row = self._state.upgrades.need(name)
            try:
                after = turn(upgrades.upgrade_of(row))
            except ValueError as error:
                raise failed_precondition("UPGRADE_STATE", f"{name}: {error}") from error
            upgrades.put(self._state, batch, row, after, self._context.steady(), caller.principal)

        await self._context.change(build)
        return self.shown(self._state.upgrades.need(name))

    def shown(self, row: Row) -> Row:
        """A stored upgrade with what was only observed."""
        return upgrades.shown(self._state, self._context.observed, row)
