"""What is reported of each replica, and whether everything is in effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent.core import fence
from agent.core.model import Container, Identity, Phase, Replica, ReplicaStatus
from agent.core.world import World

_UNWANTED: Final = "it is no longer wanted here"


def statuses(
    world: World,
    chosen: Mapping[Identity, Container],
    before: Mapping[str, ReplicaStatus],
    engine_reason: str,
    now: float,
) -> dict[str, ReplicaStatus]:
    """The status of each replica by its resource's name: those that are wanted, and those that are being ended."""
    found: dict[str, ReplicaStatus] = {}
    for identity, replica in world.replicas.items():
        status = _wanted(world, replica, chosen.get(identity), engine_reason, now)
        found[replica.resource] = _since(status, before.get(replica.resource), now)
    kept = {container.id for container in chosen.values()}
    for container in world.containers.values():
        if world.target is not None and container.id not in kept and container.resource not in found:
            found[container.resource] = _since(_ending(world, container), before.get(container.resource), now)
    for identity in world.starting:
        # A start that is no longer wanted cannot be called back: until it is over, the replica is not gone.
        known = None if identity in world.replicas else world.last_known.get(identity)
        if known is not None and known.resource not in found:
            status = ReplicaStatus(known.resource, "", Phase.DRAINING, reason=_UNWANTED)
            found[known.resource] = _since(status, before.get(known.resource), now)
    return found


def image_statuses(
    world: World, before: Mapping[str, ReplicaStatus], engine_reason: str, now: float
) -> dict[str, ReplicaStatus]:
    """The status of each image that is held without a replica, by its resource's name; ready when it is here."""
    found: dict[str, ReplicaStatus] = {}
    for held in world.target.images if world.target is not None else ():
        here, setback = held.image in world.images, world.pull_setbacks.get(held.image)
        pulling = held.image in world.pulling
        phase = Phase.HELD if here else Phase.PULLING if pulling else Phase.BACKOFF if setback else Phase.PENDING
        progress = world.pull_progress.get(held.image)
        going_on = f"it is being pulled{f': {progress}' if progress else ''}"
        why = setback.reason if setback else going_on if pulling else engine_reason or "it waits for its turn"
        status = ReplicaStatus(held.resource, held.version, phase, ready=here, reason="" if here else why)
        found[held.resource] = _since(status, before.get(held.resource), now)
    return found


def converged(world: World, chosen: Mapping[Identity, Container], generation: int, edge_generation: int) -> bool:
    """Whether everything of the target is in effect: what is wanted runs, nothing else does, and the edge knows.

    A container on which the engine hangs does nothing, so it holds up nothing.
    """
    abandoned = {container.id for container in world.containers.values() if world.is_abandoned(container)}
    if world.target is None or world.starting or world.stopping or world.removing - abandoned:
        return False
    if len(chosen) < len(world.replicas) or len(world.containers) - len(abandoned) > len(chosen):
        return False
    served = edge_generation >= generation or (world.edges == 0 and not world.target.routes)
    return served and all(container.running for container in chosen.values())


def _since(status: ReplicaStatus, before: ReplicaStatus | None, now: float) -> ReplicaStatus:
    same = before is not None and (before.phase, before.ready) == (status.phase, status.ready)
    return replace(status, since=before.since if before is not None and same else now)


def _wanted(
    world: World, replica: Replica, container: Container | None, engine_reason: str, now: float
) -> ReplicaStatus:
    memory = world.remembered(replica.identity)
    phase, reason = _phase(world, replica, container, now)
    ready = container is not None and world.is_ready(container)
    if engine_reason and not ready:
        reason = f"{reason}; {engine_reason}" if reason else engine_reason
    port = replica.ports[0] if replica.ports else 0
    return ReplicaStatus(
        resource=replica.resource,
        version=replica.version,
        phase=phase,
        ready=ready,
        restarts=memory.restarts,
        container_id=container.id if container else "",
        address=f"{container.ip}:{port}" if container and container.running and container.ip and port else "",
        reason="" if ready else reason,
        log_tail="" if ready else memory.log_tail,
        exit_code=memory.exit_code,
    )


def _phase(world: World, replica: Replica, container: Container | None, now: float) -> tuple[Phase, str]:
    memory = world.remembered(replica.identity)
    if container is not None and container.running:
        return Phase.RUNNING, _why_not_ready(world, container, memory.reason)
    if replica.identity in world.starting:
        return Phase.STARTING, memory.reason
    if memory.retry_at > now:
        return Phase.BACKOFF, memory.reason
    setback = world.pull_setbacks.get(replica.image) if container is None else None
    if setback is not None:
        return (Phase.PULLING if replica.image in world.pulling else Phase.BACKOFF), setback.reason
    if container is None and replica.image in world.pulling:
        progress = world.pull_progress.get(replica.image)
        return Phase.PULLING, f"its image is being pulled{f': {progress}' if progress else ''}"
    if not fence.may_start(world, replica, now):
        return Phase.PENDING, fence.REASON
    return Phase.PENDING, memory.reason or "it waits for its turn"


def _why_not_ready(world: World, container: Container, last_reason: str) -> str:
    if container.stranded:
        return "the network that it joined is gone, it is being restarted"
    liveness = world.liveness.get(container.id)
    if liveness is not None and not liveness.good:
        return f"its liveness probe failed, it is being restarted: {liveness.reason}"
    health = world.readiness.get(container.id)
    reason = health.reason if health else "it is not probed so far"
    return f"{reason} (before that: {last_reason})" if last_reason else reason


def _ending(world: World, container: Container) -> ReplicaStatus:
    setback = world.end_setbacks.get(container.id)
    return ReplicaStatus(
        resource=container.resource,
        version="",
        phase=Phase.DRAINING,
        container_id=container.id,
        reason=setback.reason if setback else _UNWANTED,
    )
