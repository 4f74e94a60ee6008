"""What is known of the engine's containers: listings and single events brought together.

A listing is taken at some moment between its request and its answer, while events go on. So each observation has a
number, and of a container that an event told of since the observation was asked for, the event's word counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Literal, assert_never

from agent.core import health as healths
from agent.core.messages import (
    Command,
    EngineChanged,
    EngineConnected,
    EngineLost,
    EngineObserved,
    Observe,
    ObserveFailed,
    RecordEvent,
)
from agent.core.model import Container, ContainerState, Identity
from agent.core.world import World
from fleet.backoff import Backoff

OBSERVE_EVERY_S: Final = 30.0
"""Looks again although nothing was told: an event may have been lost."""
EARLY_DEATHS_MAX: Final = 256

_RETRY: Final = Backoff(base_s=0.25, cap_s=5.0)


class EngineView:
    """Keeps `world.containers` true. `fresh` says whether they can be acted upon."""

    def __init__(self, world: World, presumed_ready: frozenset[str]):
        self._world = world
        self._presumed_ready = presumed_ready
        self._out: list[Command] = []
        self._number = 0
        self._under_way = False
        self._again = False
        self._due_at: float = 0.0
        self._failures = 0
        self._touched: dict[str, int] = {}
        self._skipped: set[Identity] = set()
        """Replicas that listings said nothing about because their start was under way: they are listed after it."""
        self._early_deaths: dict[str, tuple[int, float]] = {}
        self._lost = True
        self.fresh = False
        self.seen = False
        """The containers were listed at least once since the start."""
        self.reason = "Docker Engine was not reached so far"

    def take(
        self, event: EngineConnected | EngineLost | EngineObserved | ObserveFailed | EngineChanged, now: float
    ) -> list[tuple[Container, int]]:
        """Takes an event over; the containers that were found to have ended, with their exit codes."""
        match event:
            case EngineConnected():
                if self._lost and self.seen:
                    self._record("EngineReachable", "info", "Docker Engine answers again")
                self._lost, self.reason, self._failures = False, "", 0
                self._look_again()
            case EngineLost(reason):
                if not self._lost:
                    self._record("EngineUnreachable", "error", f"{reason}; what runs is left alone")
                self._lost, self.fresh, self.reason = True, False, reason
            case EngineObserved(number, containers):
                if number == self._number:
                    self._under_way = False
                    self._failures = 0
                    self._due_at = now + OBSERVE_EVERY_S
                    ended = list(self._merge(number, containers, now))
                    self.fresh, self.seen = True, True
                    if self._again:
                        self.distrust()
                    return ended
            case ObserveFailed(number, reason):
                if number == self._number:
                    self._under_way = False
                    self.fresh, self.reason = False, reason
                    self._due_at = now + _RETRY.ceiling_s(self._failures)
                    self._failures += 1
            case EngineChanged(identity):
                if identity is None or not self._expected(identity):
                    self._look_again()
            case _:
                assert_never(event)
        return []

    def distrust(self) -> None:
        """Something went wrong: look before anything else is done."""
        self.fresh = False
        self._look_again()

    def observe_if_due(self, now: float) -> None:
        """Asks for a listing when one is wanted and none is under way; not while the engine is known to be away."""
        if self._lost or self._under_way or now < self._due_at:
            return
        self._number += 1
        self._under_way, self._again = True, False
        self._out.append(Observe(self._number))

    def next_time(self, now: float) -> float | None:
        """When the next listing is due; None while one is under way or the engine is away."""
        return None if self._lost or self._under_way else max(now, self._due_at)

    def take_commands(self) -> list[Command]:
        """What came up since the last call."""
        out, self._out = self._out, []
        return out

    # ---- single containers

    def started(self, container: Container) -> int | None:
        """It runs; its exit code when it is known to have ended since."""
        self._touch(container.id)
        if container.identity in self._skipped:
            self._look_again()
        running = replace(container, state=ContainerState.RUNNING)
        self._world.containers[container.id] = running
        exit_code, wall_s = self._early_deaths.pop(container.id, (0, -1.0))
        if container.state is not ContainerState.RUNNING:
            return container.exit_code
        return exit_code if wall_s >= container.started_wall_s else None

    def died(self, container_id: str, exit_code: int, wall_s: float) -> Container | None:
        """The container that ended; None when this is old news, or news of one whose start is under way."""
        container = self._world.containers.get(container_id)
        if container is None or container.identity in self._world.starting:
            self._early_deaths[container_id] = (exit_code, wall_s)
            if len(self._early_deaths) > EARLY_DEATHS_MAX:
                del self._early_deaths[next(iter(self._early_deaths))]
            return None
        return container if container.running and wall_s >= container.started_wall_s else None

    def sandbox_lost(self, sandbox_id: str) -> None:
        """What joined it is stranded. Listings say so only some time after the event."""
        for container in list(self._world.containers.values()):
            if container.running and container.sandbox == sandbox_id:
                self._touch(container.id)
                self._world.containers[container.id] = replace(container, stranded=True, ip="")

    def ended(self, container_id: str, exit_code: int) -> None:
        """It no longer runs."""
        self._touch(container_id)
        container = self._world.containers[container_id]
        ended = replace(container, state=ContainerState.ENDED, ip="", exit_code=exit_code, stranded=False)
        self._world.containers[container_id] = ended
        self._forget_health(container_id)

    def removed(self, container_id: str) -> None:
        """It is gone."""
        self._touch(container_id)
        self._forget(container_id)

    # ---- listings

    def _expected(self, identity: Identity) -> bool:
        """Whether a start of this container is the agent's own."""
        running = any(c.running and c.identity == identity for c in self._world.containers.values())
        return running or identity in self._world.starting

    def _look_again(self) -> None:
        self._due_at = 0.0
        self._again = self._under_way

    def _merge(self, number: int, containers: tuple[Container, ...], now: float) -> Iterator[tuple[Container, int]]:
        """Takes a listing over, except for what events told since, and for replicas whose start will tell."""
        self._again = self._again or self._contradicts(number, containers)
        listed = {c.id: c for c in containers if self._touched.get(c.id, 0) < number}
        for container_id in list(self._world.containers):
            if container_id not in listed and self._touched.get(container_id, 0) < number:
                self._forget(container_id)
        for container in listed.values():
            if container.identity in self._world.starting:
                self._skipped.add(container.identity)
                continue
            known = self._world.containers.get(container.id)
            if known is not None and known.running and not container.running:
                yield known, container.exit_code
            elif known is not None and known.running:
                started_wall_s = max(known.started_wall_s, container.started_wall_s)
                self._world.containers[container.id] = replace(container, started_wall_s=started_wall_s)
            else:
                self._appeared(container, now)
        self._skipped &= self._world.starting.keys()
        self._touched = {container_id: n for container_id, n in self._touched.items() if n >= number}

    def _contradicts(self, number: int, containers: tuple[Container, ...]) -> bool:
        """Whether the listing says otherwise than the events since: it is older, or an event was lost."""
        listed = {container.id: container.running for container in containers}
        known = {container_id: c.running for container_id, c in self._world.containers.items()}
        recent = (container_id for container_id, n in self._touched.items() if n >= number)
        return any(listed.get(container_id) != known.get(container_id) for container_id in recent)

    def _appeared(self, container: Container, now: float) -> None:
        """One that was not known, or not known to run."""
        self._world.containers[container.id] = container
        if container.running and not self.seen:
            self._world.inherited.add(container.id)
        if container.running:
            presumed = not self.seen and container.id in self._presumed_ready
            self._world.readiness[container.id] = healths.presumed_good(now) if presumed else healths.unknown(now)
            self._world.liveness[container.id] = healths.presumed_good(now)

    def _touch(self, container_id: str) -> None:
        self._touched[container_id] = self._number

    def _forget(self, container_id: str) -> None:
        self._world.containers.pop(container_id, None)
        self._world.removing.discard(container_id)
        self._world.stopping.discard(container_id)
        self._world.end_setbacks.pop(container_id, None)
        self._world.hangs.pop(container_id, None)
        self._world.drains.pop(container_id, None)
        self._world.inherited.discard(container_id)
        self._forget_health(container_id)

    def _forget_health(self, container_id: str) -> None:
        self._world.readiness.pop(container_id, None)
        self._world.liveness.pop(container_id, None)
        self._world.elsewhere.pop(container_id, None)

    def _record(self, kind: str, severity: Literal["info", "error"], message: str) -> None:
        self._out.append(RecordEvent(kind, severity, (), message, {}))
