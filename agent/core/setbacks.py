"""What goes wrong, and when it is tried again: crashes, failed starts, failed pulls, containers that will not end."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from agent.core.messages import (
    CollectLogTail,
    Command,
    EndFailed,
    LogTailCollected,
    PullFailed,
    RecordEvent,
    StartFailed,
)
from agent.core.model import Container, Identity, Memory, Setback
from agent.core.world import World
from fleet.backoff import Backoff

RESTARTS: Final = Backoff(base_s=1.0, cap_s=60.0)
STABLE_S: Final = 10.0
"""A container that was healthy for so long before it ended is started again at once, and its past is forgotten."""


class Setbacks:
    """Keeps what the world remembers of failures."""

    def __init__(self, world: World):
        self._world = world
        self._out: list[Command] = []

    def take_commands(self) -> list[Command]:
        """What came up since the last call."""
        out, self._out = self._out, []
        return out

    def take(self, event: PullFailed | StartFailed | EndFailed, now: float) -> None:
        """Something could not be done. What failed for want of an engine is no fault of the replica's."""
        match event:
            case PullFailed():
                self._pull_failed(event, now)
            case StartFailed():
                self._start_failed(event, now)
            case EndFailed(container_id, reason, engine_lost, hung):
                self._world.stopping.discard(container_id)
                self._world.removing.discard(container_id)
                if (hung or not engine_lost) and container_id in self._world.containers:
                    before = self._world.end_setbacks.get(container_id)
                    self._world.end_setbacks[container_id] = _after(before, now, reason)
            case _:
                assert_never(event)

    def started(self, identity: Identity) -> None:
        """The replica's container runs again, or for the first time."""
        memory = self._world.remembered(identity)
        after = replace(memory, restarts=memory.restarts + memory.died, died=False, recreate=False, retry_at=0.0)
        self._remember(identity, after)

    def ended(self, container: Container, exit_code: int, now: float) -> None:
        """A container ended. To be called while its health is still known."""
        identity, liveness = container.identity, self._world.liveness.get(container.id)
        ailing = liveness is not None and not liveness.good
        if identity not in self._world.replicas or (container.id in self._world.stopping and not ailing):
            return
        reason = f"its liveness probe failed: {liveness.reason}" if ailing and liveness else _exit_reason(exit_code)
        memory = self._world.remembered(identity)
        stable = not ailing and self._was_stable(container, now)
        failures = 1 if stable else memory.failures + 1
        retry_at = now if stable else now + RESTARTS.ceiling_s(failures - 1)
        after = replace(
            memory, failures=failures, retry_at=retry_at, reason=reason, exit_code=exit_code, log_tail="", died=True
        )
        self._remember(identity, after)
        self._out.append(CollectLogTail(container.id))
        details = {"exit_code": str(exit_code), "failures_in_a_row": str(failures)}
        self._record("ReplicaCrashed", identity, f"{identity} is restarted: {reason}", details)

    def cut_off(self, container: Container, now: float) -> None:
        """Its address is another's too: a fresh container takes its place, in a network with another address."""
        memory = self._world.remembered(container.identity)
        reason = f"somebody else had its address {container.ip} as well"
        retry_at = now + RESTARTS.ceiling_s(memory.failures)
        after = replace(memory, failures=memory.failures + 1, retry_at=retry_at, reason=reason, recreate=True)
        self._remember(container.identity, after)
        message = f"{container.identity} gets another address: somebody else has {container.ip} as well"
        self._record("AddressContested", container.identity, message, {"address": container.ip})

    def log_tail(self, event: LogTailCollected) -> None:
        """The last words of a container that ended."""
        container = self._world.containers.get(event.container_id)
        memory = self._world.memory.get(container.identity) if container else None
        if container is None or memory is None or not memory.failures:
            return
        more = "; it used more memory than it may" if event.out_of_memory else ""
        self._remember(container.identity, replace(memory, log_tail=event.text, reason=memory.reason + more))

    def _was_stable(self, container: Container, now: float) -> bool:
        replica = self._world.replicas[container.identity]
        book = self._world.readiness if replica.readiness is not None else self._world.liveness
        health = book.get(container.id)
        return health is not None and health.good and now - health.since >= STABLE_S

    def _pull_failed(self, event: PullFailed, now: float) -> None:
        if event.image not in self._world.pulling:
            return
        self._world.pulling.discard(event.image)
        if event.engine_lost:
            return
        reason = f"image {event.image} cannot be pulled: {event.failure.value} ({event.detail})"
        before = self._world.pull_setbacks.get(event.image)
        self._world.pull_setbacks[event.image] = _after(before, now, reason)
        if before is None:
            apps = sorted({f"apps/{r.app}" for r in self._world.replicas.values() if r.image == event.image})
            self._out.append(RecordEvent("ImagePullFailed", "warning", tuple(apps), reason, {}))

    def _start_failed(self, event: StartFailed, now: float) -> None:
        container_id = self._world.starting.pop(event.identity, "")
        replica = self._world.replicas.get(event.identity)
        if event.hung and container_id in self._world.containers:
            self._hung(event, container_id)
        if event.engine_lost or replica is None:
            return
        memory = self._world.remembered(event.identity)
        delay_s = RESTARTS.ceiling_s(memory.failures)
        if event.image_missing:
            self._world.images.discard(replica.image)
            delay_s = delay_s if memory.failures else 0.0
        after = replace(
            memory,
            failures=memory.failures + 1,
            retry_at=now + delay_s,
            reason=f"its container cannot be started: {event.reason}",
            recreate=bool(container_id),
        )
        self._remember(event.identity, after)
        if memory.failures == 0 and not event.image_missing:
            message = f"{event.identity} cannot be started: {event.reason}"
            self._record("ReplicaStartFailed", event.identity, message, {})

    def _hung(self, event: StartFailed, container_id: str) -> None:
        """The engine left a start unanswered; when it is enough of that, planning goes on without this container."""
        hangs = self._world.hangs[container_id] = self._world.hangs.get(container_id, 0) + 1
        if event.identity in self._world.replicas and self._world.is_abandoned(self._world.containers[container_id]):
            details = {"container": container_id, "starts": str(hangs)}
            message = f"{event.identity} gets another container: Docker Engine hangs on {container_id[:12]}"
            self._record("ReplicaStartHung", event.identity, message, details)

    def _remember(self, identity: Identity, memory: Memory) -> None:
        if identity in self._world.replicas:
            self._world.memory[identity] = memory

    def _record(self, kind: str, identity: Identity, message: str, details: dict[str, str]) -> None:
        replica = self._world.replicas[identity]
        name = f"apps/{replica.app}/replicas/{replica.ordinal}-{replica.release}"
        self._out.append(RecordEvent(kind, "warning", (name, f"apps/{replica.app}"), message, details))


def _after(before: Setback | None, now: float, reason: str) -> Setback:
    failures = before.failures + 1 if before else 1
    return Setback(failures, now + RESTARTS.ceiling_s(failures - 1), reason)


def _exit_reason(exit_code: int) -> str:
    signals = {137: " (killed)", 139: " (segmentation fault)", 143: " (terminated)"}
    return f"its container ended with exit code {exit_code}{signals.get(exit_code, '')}"
