"""The fence: a replica that must never run twice runs only while its lease is young.

The control plane renews leases with its answers to heartbeats. A lease counts from the moment at which the heartbeat
was sent, so that it is never younger here than the control plane believes; that gives the replica away only once this
node must have stopped it. After a restart only what was written down in the same boot of the host is relied on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agent.core.model import Container, Replica
from agent.core.world import World

START_SHARE: Final = 0.5
"""A start takes time: it begins only while so much of the lease is left."""
OVER: Final = 0.0
"""The lease of what is no longer wanted here, for as long as it may run: long over, and known to have been one."""
REASON: Final = "it waits for the word of the control plane: only then may this node be the one that runs it"


def may_start(world: World, replica: Replica, now: float) -> bool:
    """Whether a start may begin."""
    return _age_s(world, replica, now) < replica.fence_after_s * START_SHARE or not replica.fence_after_s


def is_over(world: World, replica: Replica, now: float) -> bool:
    """Whether a replica that runs has to be stopped."""
    return bool(replica.fence_after_s) and _age_s(world, replica, now) >= replica.fence_after_s


def kept(world: World, wanted: Collection[str]) -> dict[str, float]:
    """The leases that count when these resources are wanted. What was leased and is wanted no more is remembered until
    its container is gone, also by the agent after this one; wanted again it needs a new lease."""
    left = {container.resource for container in world.containers.values()}
    found = {}
    for resource, at in world.leases.items():
        if resource in wanted:
            if at > OVER:
                found[resource] = at
        elif resource in left or not world.containers:
            found[resource] = OVER
    return found


def must_go(world: World, container: Container) -> bool:
    """Whether a container that is not wanted has to go at once: it was leased, perhaps to others meanwhile, and an
    agent that was started anew knows neither since when nor how long its end may take."""
    return container.resource in world.leases and container.identity not in world.last_known


def end_of(world: World, replica: Replica) -> float | None:
    """When its lease is over unless it is renewed; None when it has none or needs none."""
    renewed_at = world.leases.get(replica.resource)
    return renewed_at + replica.fence_after_s if replica.fence_after_s and renewed_at is not None else None


def _age_s(world: World, replica: Replica, now: float) -> float:
    renewed_at = world.leases.get(replica.resource)
    return float("inf") if renewed_at is None else now - renewed_at
