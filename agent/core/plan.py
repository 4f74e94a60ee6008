"""From what is wanted and what is there to the next steps. Computed anew each time; a step that is under way is not
asked for again, and nothing is planned beyond the next step."""

from __future__ import annotations

from typing import Final

from agent.core import fence
from agent.core.messages import (
    BeginDrain,
    CancelPull,
    CreateAndStart,
    PullImage,
    RemoveContainer,
    StartContainer,
    Step,
    StopContainer,
)
from agent.core.model import DRAIN_DEFAULT_S, STOP_TIMEOUT_DEFAULT_S, Container, Identity, Replica
from agent.core.world import World

PULLS_MAX: Final = 3
STARTS_MAX: Final = 4
ENDS_MAX: Final = 8
EDGE_PATIENCE_S: Final = 5.0
"""An edge that does not serve what it was told for so long does not hold up a drain any longer."""


def plan(world: World, now: float) -> list[Step]:
    """The steps to take now, in the order in which to take them."""
    if world.target is None:
        return []
    chosen = choose(world)
    return [*_pulls(world, chosen, now), *_starts(world, chosen, now), *_ends(world, chosen, now)]


def choose(world: World) -> dict[Identity, Container]:
    """The container of each wanted replica that has one: a ready one first, then one that runs."""
    chosen: dict[Identity, Container] = {}
    for container in sorted(world.containers.values(), key=lambda c: (not world.is_ready(c), not c.running, c.id)):
        if container.identity in world.replicas and not world.is_abandoned(container):
            chosen.setdefault(container.identity, container)
    return chosen


def next_time(world: World, now: float) -> float | None:
    """When something will have to be done although nothing happens; None when never."""
    replicas = world.replicas
    times = [world.remembered(identity).retry_at for identity in replicas]
    times += [setback.retry_at for setback in (*world.pull_setbacks.values(), *world.end_setbacks.values())]
    ends = (fence.end_of(world, replica) for replica in replicas.values())
    times += [end for end in ends if end is not None]
    times += [drain_end(world, container_id) for container_id in world.drains if container_id not in world.stopping]
    return min((time for time in times if time > now), default=None)


def drain_end(world: World, container_id: str) -> float:
    """When a drain is over at the latest."""
    drain = world.drains[container_id]
    if drain.serving_since is not None:
        return drain.since if drain.idle else drain.serving_since + drain.drain_s
    patience_s = EDGE_PATIENCE_S if world.edges else 0.0
    return drain.since + drain.drain_s + patience_s


def _pulls(world: World, chosen: dict[Identity, Container], now: float) -> list[Step]:
    """An image is wanted when a replica has no container so far, or when it is to be held."""
    needed = [r.image for i, r in sorted(world.replicas.items()) if i not in chosen and r.image not in world.images]
    # What is only held for later comes after what is to start now.
    held = world.target.images if world.target is not None else ()
    needed += [h.image for h in held if h.image not in world.images]
    cancelled = [CancelPull(image) for image in sorted(world.pulling.difference(needed))]
    free = PULLS_MAX - len(world.pulling) + len(cancelled)
    waiting = {image for image, setback in world.pull_setbacks.items() if setback.retry_at > now}
    due = [image for image in dict.fromkeys(needed) if image not in world.pulling and image not in waiting]
    return [*cancelled, *(PullImage(image) for image in due[: max(0, free)])]


def _starts(world: World, chosen: dict[Identity, Container], now: float) -> list[Step]:
    due = [
        step
        for identity, replica in sorted(world.replicas.items())
        if identity not in world.starting
        and world.remembered(identity).retry_at <= now
        and fence.may_start(world, replica, now)
        and (step := _start(world, replica, chosen.get(identity), now)) is not None
    ]
    return due[: max(0, STARTS_MAX - len(world.starting))]


def _start(world: World, replica: Replica, container: Container | None, now: float) -> Step | None:
    if container is None:
        return CreateAndStart(replica) if replica.image in world.images else None
    if container.running or container.id in world.stopping or container.id in world.removing:
        return None
    if world.remembered(replica.identity).recreate:
        return RemoveContainer(container.id) if _may_end(world, container.id, now) else None
    return StartContainer(replica.identity, container.id)


def _ends(world: World, chosen: dict[Identity, Container], now: float) -> list[Step]:
    kept = {container.id for container in chosen.values()}
    due = [
        step
        for container in sorted(world.containers.values(), key=lambda c: c.id)
        if container.id not in world.stopping
        and container.id not in world.removing
        and container.identity not in world.starting
        and _may_end(world, container.id, now)
        and (step := _unwell(world, container, now) if container.id in kept else _end(world, container, now))
        is not None
    ]
    drains = [step for step in due if isinstance(step, BeginDrain)]
    rest = [step for step in due if not isinstance(step, BeginDrain)]
    return [*drains, *rest[: max(0, ENDS_MAX - len(world.stopping) - len(world.removing))]]


def _unwell(world: World, container: Container, now: float) -> Step | None:
    """A wanted container is only ever stopped when its liveness probe says so, when nobody can reach it any more (at
    its address, another is reached), or when its lease is over."""
    health = world.liveness.get(container.id)
    fenced = fence.is_over(world, world.replicas[container.identity], now)
    unreachable = container.stranded or world.is_cut_off(container, now)
    if container.running and (fenced or unreachable or (health is not None and not health.good)):
        return StopContainer(container.id, _stop_timeout_s(world, container))
    return None


def _end(world: World, container: Container, now: float) -> Step | None:
    """The next step towards the end of a container that is not wanted."""
    if not container.running:
        return RemoveContainer(container.id, force=container.id in world.hangs)
    if fence.must_go(world, container):
        return StopContainer(container.id, 0.0)
    if container.id in world.drains:
        over = now >= drain_end(world, container.id)
        return StopContainer(container.id, _stop_timeout_s(world, container)) if over else None
    if world.served.endpoint(container.id) is not None or container.id in world.inherited:
        known = world.last_known.get(container.identity)
        return BeginDrain(container.id, known.drain_s if known else DRAIN_DEFAULT_S)
    return StopContainer(container.id, _stop_timeout_s(world, container))


def _stop_timeout_s(world: World, container: Container) -> float:
    known = world.last_known.get(container.identity)
    return known.stop_timeout_s if known else STOP_TIMEOUT_DEFAULT_S


def _may_end(world: World, container_id: str, now: float) -> bool:
    setback = world.end_setbacks.get(container_id)
    return setback is None or setback.retry_at <= now
