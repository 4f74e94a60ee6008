"""Everything that the machine knows at one moment; what planning looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.core.edge_view import Drain, EdgeView
from agent.core.health import Health
from agent.core.model import Container, ContainerState, Identity, Memory, Replica, Setback, Target

HANGS_MAX: Final = 2
"""Starts of a container that the engine may leave unanswered before another is made beside it. One that never ran has
nothing to lose, so there one is enough: an engine that is killed between create and start may hang on it for ever."""

ELSEWHERE_S: Final = 3.0
"""What began to listen between two looks is long reached by then, and so is one whose address is free again."""


@dataclass(slots=True)
class World:
    """The target, what the engine showed last, what is under way, what is remembered."""

    target: Target | None = None
    """None until the node was ever told: then nothing is known to be unwanted."""
    containers: dict[str, Container] = field(default_factory=dict)
    """Containers of this agent by id; foreign ones never get in here."""
    images: set[str] = field(default_factory=set)
    """Images known to be on this host."""
    memory: dict[Identity, Memory] = field(default_factory=dict)
    last_known: dict[Identity, Replica] = field(default_factory=dict)
    """How replicas were wanted last, also those that no longer are: their containers are to be ended properly."""

    pulling: set[str] = field(default_factory=set)
    pull_progress: dict[str, str] = field(default_factory=dict)
    """By image that is being pulled, how far that is."""
    starting: dict[Identity, str] = field(default_factory=dict)
    """Starts under way, with the container's id when there is one already."""
    stopping: set[str] = field(default_factory=set)
    removing: set[str] = field(default_factory=set)
    pull_setbacks: dict[str, Setback] = field(default_factory=dict)
    end_setbacks: dict[str, Setback] = field(default_factory=dict)
    elsewhere: dict[str, float] = field(default_factory=dict)
    """By container: since when probes of its address have reached somebody else."""
    hangs: dict[str, int] = field(default_factory=dict)
    """By container: how many of its starts the engine never answered."""

    readiness: dict[str, Health] = field(default_factory=dict)
    """By container."""
    liveness: dict[str, Health] = field(default_factory=dict)
    """By container."""
    drains: dict[str, Drain] = field(default_factory=dict)
    """By container."""
    inherited: set[str] = field(default_factory=set)
    """Containers that ran before the agent did: an edge may know them although this agent never published them."""
    leases: dict[str, float] = field(default_factory=dict)
    """By resource: up to when the control plane is known to have let this node run it, in the past."""
    edges: int = 0
    served: EdgeView = field(default_factory=EdgeView)
    """What was published last."""

    @property
    def replicas(self) -> Mapping[Identity, Replica]:
        """What is wanted."""
        return _NOTHING if self.target is None else self.target.replicas

    def remembered(self, identity: Identity) -> Memory:
        """The memory of a replica; a blank one when there is none."""
        return self.memory.get(identity, _BLANK)

    def is_abandoned(self, container: Container) -> bool:
        """Whether the engine hangs on the container, so that another takes its place."""
        enough = 1 if container.state is ContainerState.CREATED else HANGS_MAX
        return not container.running and self.hangs.get(container.id, 0) >= enough

    def is_cut_off(self, container: Container, now: float) -> bool:
        """Whether its address has been another's for so long that it needs another one."""
        since = self.elsewhere.get(container.id)
        return since is not None and now - since >= ELSEWHERE_S

    def is_ready(self, container: Container) -> bool:
        """Whether the container is to get requests, if it is a wanted one; without a probe, it is while it runs."""
        replica = self.replicas.get(container.identity)
        if replica is None or not container.running or container.stranded or container.id in self.stopping:
            return False
        health = self.readiness.get(container.id)
        return replica.readiness is None or (health is not None and health.good)


_BLANK: Final = Memory()
_NOTHING: Final[Mapping[Identity, Replica]] = {}
