"""A week without a control plane, in virtual time: replicas go on; what happened is kept, and told in order later."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

from agent.core.machine import Machine
from agent.core.messages import (
    Command,
    ContainerDied,
    ContainerStarted,
    CreateAndStart,
    EngineConnected,
    EngineObserved,
    Event,
    ImagePulled,
    LogTailCollected,
    Observe,
    ProbeSucceeded,
    PullImage,
    RecordEvent,
    ReportStatus,
    SnapshotAccepted,
    StartContainer,
    StartProbing,
    Ticked,
    WakeAt,
)
from agent.core.model import Container, ContainerState
from agent.outbox import EVENTS_MAX, Outbox
from agent.reporter import Reporter
from locci.v1 import agent_pb2, event_pb2
from tests.fakes.clock import ManualClock
from tests.unit.agent.play import replica, running, target

HOUR_S = 3600.0
WEEK_S = 7 * 24 * HOUR_S
WANTED = [replica(ordinal) for ordinal in range(3)]


class Host:
    """The agent's core with an engine that does what it is told, and nobody who listens."""

    def __init__(self, folder: Path):
        self.now = 1000.0
        self.clock = ManualClock()
        self.path = folder / "events.pb"
        self.outbox = Outbox(self.path)
        self.reporter = Reporter(self.clock, self.outbox)
        self.machine = Machine()
        self._events: deque[Event] = deque()
        self._handling = False
        self.wake_at: float | None = None
        self.containers: dict[str, Container] = {}
        self.made = 0
        self.restarts = 0

    def boot(self) -> None:
        self.tell(SnapshotAccepted(target(*WANTED)))
        self.tell(EngineConnected())

    def tell(self, event: Event) -> None:
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        while self._events:
            for command in self.machine.handle(self._events.popleft(), self.now):
                self._carry_out(command)
        self._handling = False

    def _carry_out(self, command: Command) -> None:
        match command:
            case Observe(number):
                self.tell(EngineObserved(number, tuple(self.containers.values())))
            case PullImage(image):
                self.tell(ImagePulled(image))
            case CreateAndStart(wanted):
                self.made += 1
                self._started(running(f"c{self.made}", wanted, self.now))
            case StartContainer(identity, container_id):
                self.restarts += 1
                of = next(wanted for wanted in WANTED if wanted.identity == identity)
                self._started(running(container_id, of, self.now))
            case StartProbing(container_id, purpose):
                self.tell(ProbeSucceeded(container_id, purpose))
            case WakeAt(at):
                self.wake_at = at
            case RecordEvent():
                self.reporter.record(command)
            case ReportStatus():
                self.reporter.report(command)
            case _:
                pass

    def _started(self, container: Container) -> None:
        self.containers[container.id] = container
        self.tell(ContainerStarted(container))

    def crash(self, container_id: str) -> None:
        """A container's process ends by itself."""
        old = self.containers[container_id]
        ended = Container(old.id, old.identity, old.resource, ContainerState.ENDED, "", 1)
        self.containers[container_id] = ended
        self.tell(ContainerDied(container_id, 1, self.now))
        self.tell(LogTailCollected(container_id, "out of luck"))

    def until(self, end: float) -> None:
        """Time passes; each timer rings when it is due."""
        while self.wake_at is not None and self.wake_at <= end:
            self.now, self.wake_at = max(self.now, self.wake_at), None
            self.tell(Ticked())
        self.now = end

    def restart(self) -> None:
        """kill -9 of the agent: only what is on its disk is known after."""
        self.outbox._write(self.outbox._content())
        self.outbox = Outbox(self.path)
        self.reporter = Reporter(self.clock, self.outbox)
        self.machine, self.wake_at = Machine(), None
        self.boot()

    @property
    def ready(self) -> int:
        return sum(status.ready for status in self.machine.statuses.values())


def delivered(host: Host, rng: random.Random) -> tuple[agent_pb2.Status, list[event_pb2.Event]]:
    """What a control plane hears that comes back and loses the connection now and then, each event once."""
    heard: dict[int, event_pb2.Event] = {}
    first: agent_pb2.Status | None = None
    while len(host.outbox):
        status: agent_pb2.Status | None = host.reporter.complete()
        first = first or status
        while status is not None:
            begin = status.events_through - len(status.events) + 1
            heard.update(dict(enumerate(status.events, begin)))
            if rng.random() < 0.3:
                break
            told = agent_pb2.EventsRecorded(through=status.events_through, series=status.events_series)
            host.outbox.recorded(told)
            status = host.reporter.change()
    assert first is not None
    return first, [heard[number] for number in sorted(heard)]


def test_a_week_alone(tmp_path: Path) -> None:
    host, rng = Host(tmp_path), random.Random(1)
    host.boot()
    assert host.ready == 3
    end, crashes = host.now + WEEK_S, 0
    while host.now < end:
        host.until(host.now + rng.uniform(0.1, 1.0) * HOUR_S)
        # What was well for a while is started again at once, whoever listens.
        assert host.ready == 3
        host.crash(rng.choice(sorted(host.containers)))
        crashes += 1
        if rng.random() < 0.1:
            host.restart()
    host.until(host.now + 120.0)
    assert host.ready == 3
    # No container was ever made anew: adopted after each restart, started again after each crash.
    assert (host.made, len(host.containers)) == (3, 3)
    assert host.restarts == crashes
    assert 0 < len(host.outbox) <= EVENTS_MAX

    status, events = delivered(host, rng)
    assert status.complete
    assert sorted(told.resource for told in status.replicas) == sorted(wanted.resource for wanted in WANTED)
    assert all(told.ready for told in status.replicas)
    times = [event.time.ToNanoseconds() for event in events]
    assert times == sorted(times)
    kinds = [event for event in events if event.type == "ReplicaCrashed"]
    assert sum(int(event.details.get("repeated", "1")) for event in kinds) == crashes
    assert len(host.outbox) == 0
