"""Containers of this agent that live on although the engine no longer knows of them.

An engine that is killed while it starts a container may forget that it did. What it then removes goes on running, and
keeps its address, which the engine gives to another container: on the bridge there are two hosts with one address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keeper:
    """A process that keeps one container (a containerd shim). `started` tells it from others with its number."""

    pid: int
    started: str
    container_id: str


@dataclass(frozen=True, slots=True)
class OrphanPlan:
    """Whom to end now, whom to look at once more before that, and whose containers are gone."""

    end: tuple[Keeper, ...] = ()
    suspects: frozenset[Keeper] = frozenset()
    gone: frozenset[str] = frozenset()


def plan(
    keepers: Iterable[Keeper], *, made: Collection[str], listed: Collection[str], suspects: Collection[Keeper]
) -> OrphanPlan:
    """`made` are the containers that this agent ever made, as it noted before it had them started; `listed` those that
    the engine has, asked after `keepers` were looked for; `suspects` are those of the last look.

    What this agent did not make, or the engine has, is never ended. The second look is for one that is just ending.
    """
    kept = tuple(keeper for keeper in keepers if keeper.container_id in made)
    unknown = frozenset(keeper for keeper in kept if keeper.container_id not in listed)
    end = unknown.intersection(suspects)
    return OrphanPlan(
        end=tuple(sorted(end, key=lambda keeper: keeper.pid)),
        suspects=unknown - end,
        gone=frozenset(made) - set(listed) - {keeper.container_id for keeper in kept},
    )
