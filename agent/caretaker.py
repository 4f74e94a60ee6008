"""Looks after the host from time to time: its conditions, the images that nobody needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog

from agent.adapters.engine import Engine
from agent.adapters.engine_errors import EngineError
from agent.adapters.image_log import ImageLog
from agent.adapters.signatures import Signatures
from agent.adapters.usage import Usage, UsageReader
from agent.core.conditions import Condition, HostFigures, changed, judge
from agent.core.images import PRESSURE, removable
from agent.core.messages import RecordEvent
from fleet import telemetry
from fleet.clock import Clock

log = structlog.get_logger()

CONDITIONS_EVERY_S: Final = 5.0
IMAGES_EVERY_S: Final = 60.0


class Caretaker:
    """Runs beside the shell, on the event loop."""

    def __init__(
        self,
        *,
        engine: Engine,
        images: ImageLog,
        signatures: Signatures,
        clock: Clock,
        figures: Callable[[], HostFigures],
        wanted: Callable[[], Collection[str]],
        running: Callable[[], Mapping[str, str]],
        record: Callable[[RecordEvent], None],
        show: Callable[[list[Condition]], None],
        show_usage: Callable[[dict[str, Usage]], None],
    ):
        """`wanted` are the images of the target, `running` the resources of running containers by container;
        `record` takes events, `show` all conditions when one turned, `show_usage` what each resource uses."""
        self._engine = engine
        self._images = images
        self._signatures = signatures
        self._clock = clock
        self._figures = figures
        self._wanted = wanted
        self._running = running
        self._record = record
        self._show = show
        self._show_usage = show_usage
        self._usage = UsageReader()
        self.conditions: dict[str, Condition] = {}

    async def run(self) -> None:
        """Looks after the host until cancelled."""
        images_at = self._clock.monotonic() + IMAGES_EVERY_S
        while True:
            now = self._clock.monotonic()
            self.look_at_host(now)
            await self.look_at_usage(now)
            if now >= images_at or _is_pressed(self._figures()):
                images_at = now + IMAGES_EVERY_S
                await self.look_at_images()
            await self._clock.sleep(CONDITIONS_EVERY_S)

    def look_at_host(self, now: float) -> None:
        """Judges the host, and says what turned."""
        after = judge(self._figures(), self.conditions, now)
        turned = changed(self.conditions, after)
        first = not self.conditions
        self.conditions = after
        for condition in turned:
            kind = f"Host{condition.type}{'Recovered' if condition.ok else 'Troubled'}"
            severity = "info" if condition.ok else "warning"
            self._record(RecordEvent(kind, severity, (), condition.message, {}))  # type: ignore[arg-type]
        if turned or first:
            self._show(list(after.values()))

    async def look_at_usage(self, now: float) -> None:
        """Reads what each running container uses."""
        resources = self._running()
        usage = await asyncio.to_thread(self._usage.read, list(resources), now)
        self._show_usage({resources[container_id]: used for container_id, used in usage.items()})

    async def look_at_images(self) -> None:
        """Removes what nobody needs; what cannot be removed is tried again next time."""
        wanted, now_s = self._wanted(), self._clock.wall()
        self._images.wanted(wanted, now_s)
        figures = self._figures()
        if figures.engine_reason:
            return
        try:
            needed = {*wanted, *await self._engine.images.in_use()}
            pressed = _is_pressed(figures)
            for image in removable(self._images.last_wanted_s, needed=needed, pressed=pressed, now_s=now_s):
                if image.partition("@")[2] not in {name.partition("@")[2] for name in self._wanted()}:
                    await self._engine.images.remove(image)
                    self._images.removed(image)
                    log.info("image_removed", image=image)
            await asyncio.to_thread(self._images.save)
            await asyncio.to_thread(self._signatures.forget, wanted)
        except (EngineError, OSError) as error:
            log.warning("images_not_kept", **{telemetry.REASON: str(error)})


def _is_pressed(figures: HostFigures) -> bool:
    return bool(figures.space_reason) or (figures.disk_used or 0.0) >= PRESSURE
