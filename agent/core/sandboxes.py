"""Network namespaces made ahead of time: how many there are to be, which are left over.

A sandbox is a container that only sleeps. Its network costs the engine half of a container's start; a replica that
joins one starts in half of the time. Each is used by one replica only, and goes when the replica's container is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One as the engine shows it; `ip` is empty while it does not run."""

    id: str
    running: bool
    ip: str = ""


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    """What to do about the sandboxes, and which ones may be given out."""

    idle: tuple[Sandbox, ...] = ()
    remove: tuple[str, ...] = ()
    create: int = 0


def plan(
    sandboxes: Iterable[Sandbox],
    *,
    used: Collection[str],
    held: Collection[str],
    spent: Collection[str],
    wanted: int,
) -> SandboxPlan:
    """The next steps. `used` are joined by a container, whatever its state; `held` may be by now, or soon; `spent`
    were at some time, and are not given to another replica.

    One that ended has lost its network: unused, it is of no use. Used, it is started again with its container.
    """
    free = [box for box in sorted(sandboxes, key=lambda box: box.id) if box.id not in used and box.id not in held]
    running = [box for box in free if box.running and box.ip and box.id not in spent]
    idle = running[:wanted]
    kept = {box.id for box in idle}
    return SandboxPlan(
        idle=tuple(idle),
        remove=tuple(box.id for box in free if box.id not in kept),
        create=max(0, wanted - len(idle)),
    )
