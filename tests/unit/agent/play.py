"""Plays in virtual time: tell the machine what happened, look at what it commands."""

from __future__ import annotations

from typing import TypeVar

from agent.core.machine import Machine
from agent.core.messages import (
    Command,
    ContainerStarted,
    EdgeServing,
    EngineConnected,
    EngineObserved,
    Event,
    ImagePulled,
    Observe,
    ProbeSucceeded,
    PublishEdge,
    ReportStatus,
    SnapshotAccepted,
)
from agent.core.model import (
    Container,
    ContainerState,
    Identity,
    Probe,
    Purpose,
    Replica,
    ReplicaStatus,
    Route,
    Target,
)

C = TypeVar("C")

IMAGE = "registry.test/web@sha256:" + "1" * 64
READINESS = Probe("http", 8080, path="/healthz")


def replica(
    ordinal: int = 0,
    release: int = 1,
    spec: str = "",
    *,
    image: str = IMAGE,
    readiness: Probe | None = READINESS,
    liveness: Probe | None = None,
) -> Replica:
    """A wanted replica of the app `web`."""
    return Replica(
        resource=f"replicas/web/{ordinal}/{release}",
        version=f"v{release}",
        app="web",
        ordinal=ordinal,
        release=release,
        spec_hash=spec or f"spec-{release}",
        image=image,
        ports=(8080,),
        readiness=readiness,
        liveness=liveness,
        stop_timeout_s=5.0,
        drain_s=2.0,
    )


def target(*replicas: Replica, revision: int = 1, routes: tuple[Route, ...] = (Route("web", ("web.test",)),)) -> Target:
    """What the node must hold."""
    return Target(revision, {r.identity: r for r in replicas}, routes)


def running(container_id: str, of: Replica, started_wall_s: float = 100.0) -> Container:
    """A running container of a replica."""
    ip = f"10.0.0.{sum(container_id.encode()) % 250 + 1}"
    return Container(container_id, of.identity, of.resource, ContainerState.RUNNING, ip, 0, started_wall_s)


def ended(container_id: str, of: Replica, exit_code: int = 0) -> Container:
    """A container of a replica that ended."""
    return Container(container_id, of.identity, of.resource, ContainerState.ENDED, "", exit_code)


class Play:
    """`play >> event` tells; `play.saw(Command)` are the commands of a kind that came of the last telling."""

    def __init__(self, machine: Machine | None = None):
        self.machine = machine or Machine()
        self.now = 1000.0
        self.commands: list[Command] = []
        self.published: PublishEdge | None = None
        self.gone: list[str] = []

    def __rshift__(self, event: Event) -> Play:
        self.commands = self.machine.handle(event, self.now)
        for command in self.commands:
            if isinstance(command, PublishEdge):
                self.published = command
            elif isinstance(command, ReportStatus):
                self.gone += command.gone
        return self

    def later(self, seconds: float) -> Play:
        """Time passes."""
        self.now += seconds
        return self

    def saw(self, kind: type[C]) -> list[C]:
        """The commands of a kind after the last event."""
        return [command for command in self.commands if isinstance(command, kind)]

    def status(self, of: Replica) -> ReplicaStatus:
        """What was reported of a replica last."""
        return self.machine.statuses[of.resource]

    def endpoints(self, draining: bool = False) -> list[str]:
        """Containers that the edge was told of last."""
        assert self.published is not None
        local = (e for route in self.published.view.routes for e in route.local)
        return [e.container_id for e in local if e.draining == draining]

    def boot(self, *containers: Container, wanted: Target | None = None) -> Play:
        """The engine is there with these containers; before that the target was accepted, if there is one."""
        if wanted is not None:
            self >> SnapshotAccepted(wanted)
        self >> EngineConnected()
        (observe,) = self.saw(Observe)
        return self >> EngineObserved(observe.number, containers)

    def well(self, container_id: str, of: Replica) -> Play:
        """The replica's image is pulled, its container started and healthy."""
        if IMAGE not in self.machine.world.images:
            self >> ImagePulled(of.image)
        self >> ContainerStarted(running(container_id, of))
        return self >> ProbeSucceeded(container_id, Purpose.READINESS)

    def edge_serves(self, edges: int = 1, idle: frozenset[str] = frozenset()) -> Play:
        """The edges serve the newest generation."""
        return self >> EdgeServing(edges, self.machine.generation, idle)


def identity(ordinal: int = 0, spec: str = "spec-1") -> Identity:
    """Of a replica of the app `web`."""
    return Identity("web", ordinal, spec)
