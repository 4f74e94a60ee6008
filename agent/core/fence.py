"""The fence: a replica that must never run twice runs only while its lease is young.

The control plane renews leases with its answers to heartbeats. A lease counts from the moment at which the heartbeat
was sent, so that it is never younger here than the control plane believes; that gives the replica away only once this
node must have stopped it. After a restart only what was written down in the same boot of the host is relied on.
"""

from __future__ import annotations

from typing import Final

from agent.core.model import Replica
from agent.core.world import World

START_SHARE: Final = 0.5
"""A start takes time: it begins only while so much of the lease is left."""
REASON: Final = "it waits for the word of the control plane: only then may this node be the one that runs it"


def may_start(world: World, replica: Replica, now: float) -> bool:
    """Whether a start may begin."""
    return _age_s(world, replica, now) < replica.fence_after_s * START_SHARE or not replica.fence_after_s


def is_over(world: World, replica: Replica, now: float) -> bool:
    """Whether a replica that runs has to be stopped."""
    return bool(replica.fence_after_s) and _age_s(world, replica, now) >= replica.fence_after_s


def end_of(world: World, replica: Replica) -> float | None:
    """When its lease is over unless it is renewed; None when it has none or needs none."""
    renewed_at = world.leases.get(replica.resource)
    return renewed_at + replica.fence_after_s if replica.fence_after_s and renewed_at is not None else None


def _age_s(world: World, replica: Replica, now: float) -> float:
    renewed_at = world.leases.get(replica.resource)
    return float("inf") if renewed_at is None else now - renewed_at
