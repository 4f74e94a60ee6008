"""A host with a real agent's machine over a simulated engine, on a clock that drifts."""

from __future__ import annotations

import random
from dataclasses import replace

from agent import decode
from agent.core.machine import Machine
from agent.core.messages import (
    Command,
    ContainerRemoved,
    ContainerStarted,
    ContainerStopped,
    CreateAndStart,
    EngineConnected,
    EngineObserved,
    Event,
    ImagePulled,
    Observe,
    ProbeSucceeded,
    PublishEdge,
    PullImage,
    RemoveContainer,
    SnapshotAccepted,
    StartContainer,
    StartProbing,
    StopContainer,
    Ticked,
    WakeAt,
)
from agent.core.model import Container, ContainerState
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, replica_pb2

DRIFT = 0.05
ENGINE_S = 0.8
"""An engine takes at most so long for a start, or for an end beyond the stop timeout."""


class AgentHost:
    """What the agent has on disk and the engine's containers outlive the agent; the machine is made anew with it."""

    def __init__(self, name: str, rng: random.Random):
        self.name, self.rng = name, rng
        self.rate = 1 + rng.uniform(-DRIFT, DRIFT)
        self.snapshot = Snapshot()
        self.containers: dict[str, Container] = {}
        self.count = 0
        self.dead_until = 0.0
        self.leases: dict[str, float] = {}
        self.generation = 0
        self.ready: frozenset[str] = frozenset()
        self.wake_at: float | None = None
        self.boot(0.0)

    def local(self, now: float) -> float:
        """This host's monotonic clock."""
        return now * self.rate

    def boot(self, now: float) -> None:
        """A fresh agent, with what it wrote down; containers are as they are."""
        self.machine = Machine(generation=self.generation, presumed_ready=self.ready, leases=self.leases)
        self.work: list[tuple[float, Event]] = []
        self.beats: dict[int, float] = {}
        self.next_beat = 0.0
        self.said: dict[str, bool] = {}
        self.hang_up()
        if self.snapshot.revision:
            self.tell(SnapshotAccepted(decode.target(self.snapshot)), now)
        self.tell(EngineConnected(), now)

    def hang_up(self) -> None:
        """The stream is gone."""

    def crash(self, now: float, *, host: bool) -> None:
        """The agent ends, and is started again soon; with the whole host containers end and leases are forgotten."""
        self.hang_up()
        if host:
            self.leases = {}
            ended = ContainerState.ENDED
            self.containers = {i: replace(c, state=ended, ip="") for i, c in self.containers.items()}
        self.dead_until = now + (self.rng.uniform(1, 20) if host else self.rng.uniform(0, 1))
        self.work = []

    def tell(self, event: Event, now: float) -> None:
        """The machine, and what it commands."""
        for command in self.machine.handle(event, self.local(now)):
            self.carry_out(command, now)
        self.leases = dict(self.machine.world.leases)

    def carry_out(self, command: Command, now: float) -> None:
        """What an engine does, in its own time."""
        soon = now + self.rng.uniform(0, ENGINE_S)
        match command:
            case Observe(number):
                self.work.append((now, EngineObserved(number, tuple(self.containers.values()))))
            case PullImage(image):
                self.work.append((soon, ImagePulled(image)))
            case CreateAndStart(replica):
                self.count += 1
                name = f"{self.name}-{self.count}"
                container = Container(name, replica.identity, replica.resource, ContainerState.RUNNING, "10.0.0.1")
                self.work.append((soon, ContainerStarted(container)))
            case StartContainer(_, container_id):
                again = replace(self.containers[container_id], state=ContainerState.RUNNING, ip="10.0.0.1")
                self.work.append((soon, ContainerStarted(again)))
            case StopContainer(container_id, timeout_s):
                takes_s = self.rng.choice([0.0, timeout_s]) + self.rng.uniform(0, ENGINE_S)
                self.work.append((now + takes_s, ContainerStopped(container_id)))
            case RemoveContainer(container_id):
                self.work.append((soon, ContainerRemoved(container_id)))
            case StartProbing(container_id, purpose):
                self.work.append((soon, ProbeSucceeded(container_id, purpose)))
            case PublishEdge(generation, _, ready):
                self.generation, self.ready = generation, ready
            case WakeAt(at):
                self.wake_at = at
            case _:
                pass

    def run(self, now: float) -> None:
        """The engine goes on, and the machine is woken when it asked for that."""
        if now < self.dead_until:
            return
        if self.dead_until:
            self.dead_until = 0.0
            self.boot(now)
        while due := [item for item in self.work if item[0] <= now]:
            self.work = [item for item in self.work if item[0] > now]
            for _, event in sorted(due, key=lambda item: item[0]):
                self.happened(event)
                self.tell(event, now)
        if self.wake_at is not None and self.wake_at <= self.local(now):
            self.wake_at = None
            self.tell(Ticked(), now)

    def happened(self, event: Event) -> None:
        """What an answer of the engine means for its containers."""
        match event:
            case ContainerStarted(container):
                self.containers[container.id] = container
            case ContainerStopped(container_id) if container_id in self.containers:
                ended = ContainerState.ENDED
                self.containers[container_id] = replace(self.containers[container_id], state=ended, ip="")
            case ContainerRemoved(container_id):
                self.containers.pop(container_id, None)
            case _:
                pass

    def status(self, *, complete: bool) -> agent_pb2.Status | None:
        """What changed, or everything."""
        current = {name: status.ready for name, status in self.machine.statuses.items()}
        changed = [n for n, ready in current.items() if complete or self.said.get(n) != ready]
        gone = [] if complete else [n for n in self.said if n not in current]
        if not (changed or gone or complete):
            return None
        self.said = current
        running = replica_pb2.REPLICA_PHASE_RUNNING
        rows = [replica_pb2.ReplicaStatus(resource=n, ready=current[n], phase=running) for n in changed]
        return agent_pb2.Status(replicas=rows, gone=gone, complete=complete)

    @property
    def running(self) -> list[str]:
        """Containers that run now."""
        return [c.id for c in self.containers.values() if c.running]
