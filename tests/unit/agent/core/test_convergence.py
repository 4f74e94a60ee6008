"""Whatever happens, in whatever order: the wanted state is reached, and nothing healthy or foreign is harmed."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.machine import Machine
from agent.core.messages import (
    CancelPull,
    CollectLogTail,
    Command,
    ContainerDied,
    ContainerRemoved,
    ContainerStarted,
    ContainerStopped,
    CreateAndStart,
    EdgeServing,
    EndFailed,
    EngineConnected,
    EngineLost,
    EngineObserved,
    Event,
    ImagePulled,
    Observe,
    ObserveFailed,
    ProbeFailed,
    ProbeSucceeded,
    PublishEdge,
    PullFailed,
    PullImage,
    RecordEvent,
    RemoveContainer,
    ReportStatus,
    SnapshotAccepted,
    StartContainer,
    StartFailed,
    StartProbing,
    StopContainer,
    StopProbing,
    Ticked,
    WakeAt,
)
from agent.core.model import Container, ContainerState, Identity, Probe, PullFailure, Purpose, Replica, Target
from tests.unit.agent.play import replica, target

LIVENESS = Probe("tcp", 8080)
POOL = [replica(ordinal, release, liveness=LIVENESS) for ordinal in range(3) for release in (1, 2)]


class Engine:
    """An engine, probes and an edge that do what the machine commands, in an order that the test draws."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.now = 0.0
        self.containers: dict[str, Container] = {}
        self.probing: dict[tuple[str, Purpose], Probe] = {}
        self.waiting: list[Command] = []
        self.late: list[Event] = []
        self.generation = 0
        self.wake_at: float | None = None
        self.target: Target | None = None
        self.up = False
        self._ids = (f"c{n}" for n in itertools.count())
        self._starts: dict[str, int] = {}

    def tell(self, event: Event) -> None:
        """The machine handles an event; its commands wait to be carried out."""
        for command in self.machine.handle(event, self.now):
            self._check(command)
            match command:
                case StartProbing(container_id, purpose, probe, _, _):
                    self.probing[container_id, purpose] = probe
                case StopProbing(container_id, purpose):
                    self.probing.pop((container_id, purpose), None)
                case WakeAt(at):
                    self.wake_at = at
                case CancelPull(image):
                    self.waiting = [c for c in self.waiting if c != PullImage(image)]
                case PublishEdge(generation):
                    assert generation > self.generation
                    self.generation = generation
                case ReportStatus() | RecordEvent() | CollectLogTail():
                    pass
                case _:
                    self.waiting.append(command)

    def _check(self, command: Command) -> None:
        """No healthy container that is wanted is stopped; nothing that is not the agent's is named."""
        if isinstance(command, StartContainer | StopContainer | RemoveContainer):
            container = self.containers.get(command.container_id)
            assert container is not None or isinstance(command, RemoveContainer), "a container that nobody made"
        if isinstance(command, StopContainer):
            container = self.containers[command.container_id]
            health = self.machine.world.liveness.get(container.id)
            ailing = health is not None and not health.good
            assert ailing or container.identity not in self._wanted(), f"{container.id} was healthy and wanted"

    def _wanted(self) -> dict[Identity, Replica]:
        return {} if self.target is None else dict(self.target.replicas)

    def want(self, *replicas: Replica) -> None:
        revision = self.target.revision + 1 if self.target else 1
        self.target = target(*replicas, revision=revision)
        self.tell(SnapshotAccepted(self.target))

    def carry_out(self, index: int, works: bool) -> None:
        """Carries out one of the waiting commands, well or badly."""
        if not self.waiting:
            return
        command = self.waiting.pop(index % len(self.waiting))
        match command:
            case Observe(number):
                found = tuple(self.containers.values())
                self.late.append(EngineObserved(number, found) if works and self.up else ObserveFailed(number, "away"))
            case PullImage(image):
                failed = PullFailed(image, PullFailure.OTHER, "drawn", engine_lost=not self.up)
                self.tell(ImagePulled(image) if works and self.up else failed)
            case CreateAndStart(wanted):
                self._create(wanted, works)
            case StartContainer(identity, container_id):
                self._start(identity, container_id, works)
            case StopContainer(container_id) | RemoveContainer(container_id):
                self._end(command, container_id, works)
            case other:
                raise AssertionError(other)

    def _create(self, wanted: Replica, works: bool) -> None:
        if not (works and self.up):
            self.tell(StartFailed(wanted.identity, "drawn", engine_lost=not self.up))
            return
        assert not any(c.running and c.identity == wanted.identity for c in self.containers.values()), "twice"
        container_id = next(self._ids)
        self.containers[container_id] = Container(
            container_id, wanted.identity, wanted.resource, ContainerState.CREATED
        )
        self._start(wanted.identity, container_id, works)

    def _start(self, identity: Identity, container_id: str, works: bool) -> None:
        if not (works and self.up and container_id in self.containers):
            self.tell(StartFailed(identity, "drawn", engine_lost=not self.up))
            return
        self._starts[container_id] = self._starts.get(container_id, 0) + 1
        started = replace(
            self.containers[container_id],
            state=ContainerState.RUNNING,
            ip="10.0.0.1",
            started_wall_s=self.now + self._starts[container_id],
        )
        self.containers[container_id] = started
        self.late.append(ContainerStarted(started))

    def deliver(self, index: int) -> None:
        """One of the answers that are under way arrives; others may have been sent before it."""
        if self.late:
            self.tell(self.late.pop(index % len(self.late)))

    def _end(self, command: StopContainer | RemoveContainer, container_id: str, works: bool) -> None:
        if not (works and self.up):
            self.tell(EndFailed(container_id, "drawn", engine_lost=not self.up))
        elif isinstance(command, StopContainer):
            self.die(container_id, tell=False)
            self.tell(ContainerStopped(container_id))
        else:
            self.containers.pop(container_id, None)
            self.tell(ContainerRemoved(container_id))

    def die(self, container_id: str, tell: bool = True) -> None:
        container = self.containers.get(container_id)
        if container is None or not container.running:
            return
        self.containers[container_id] = replace(container, state=ContainerState.ENDED, ip="", exit_code=1)
        if tell and self.up:
            self.tell(ContainerDied(container_id, 1, container.started_wall_s + 0.5))

    def settle(self) -> None:
        """Everything works from now on; returns when nothing is left to do."""
        self.up = True
        self.tell(EngineConnected())
        for _ in range(2000):
            if self.late or self.waiting:
                self.deliver(0)
                self.carry_out(0, works=True)
                continue
            for container_id, purpose in list(self.probing):
                self.tell(ProbeSucceeded(container_id, purpose))
            self.tell(EdgeServing(1, self.generation))
            if self.waiting:
                continue
            applied = self.target is None or self.machine.applied_revision == self.target.revision
            if applied and all(status.ready for status in self.machine.statuses.values()):
                return
            assert self.wake_at is not None, "nothing is left to do, and it is not done"
            self.now = max(self.now, self.wake_at)
            self.tell(Ticked())
        raise AssertionError("it never ends")


ACTIONS = st.one_of(
    st.tuples(st.just("carry out"), st.integers(0, 20), st.sampled_from([True, True, True, False])),
    st.tuples(st.just("carry out"), st.integers(0, 20), st.just(True)),
    st.tuples(st.just("deliver"), st.integers(0, 20), st.just(True)),
    st.tuples(st.just("want"), st.integers(0, 2 ** len(POOL) - 1), st.just(True)),
    st.tuples(st.just("die"), st.integers(0, 20), st.booleans()),
    st.tuples(st.just("probe"), st.integers(0, 20), st.booleans()),
    st.tuples(st.just("time"), st.integers(0, 40), st.just(True)),
    st.tuples(st.just("engine"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("edge"), st.integers(0, 2), st.booleans()),
)


def act(engine: Engine, kind: str, number: int, good: bool) -> None:
    """One thing happens."""
    match kind:
        case "carry out":
            engine.carry_out(number, good)
        case "deliver":
            engine.deliver(number)
        case "want":
            engine.want(*(r for bit, r in enumerate(POOL) if number >> bit & 1))
        case "die" if engine.containers:
            engine.die(list(engine.containers)[number % len(engine.containers)], tell=good)
        case "probe" if engine.probing:
            container_id, purpose = list(engine.probing)[number % len(engine.probing)]
            answer = ProbeSucceeded(container_id, purpose) if good else ProbeFailed(container_id, purpose, "drawn")
            engine.tell(answer)
        case "time":
            engine.now += number
            engine.tell(Ticked())
        case "engine" if engine.up != good:
            engine.up = good
            engine.tell(EngineConnected() if good else EngineLost("drawn"))
        case "edge":
            engine.tell(EdgeServing(number, engine.generation if good else 0))
        case _:
            pass


@settings(max_examples=500, deadline=None)
@given(st.lists(ACTIONS, max_size=120))
def test_the_wanted_state_is_reached_from_any_interleaving(actions: list[tuple[str, int, bool]]) -> None:
    engine = Engine(Machine())
    for action in actions:
        act(engine, *action)
    engine.settle()
    if engine.target is not None:
        running = [c.identity for c in engine.containers.values() if c.running]
        assert sorted(running) == sorted(engine.target.replicas)
        assert len(engine.containers) == len(running)


@settings(max_examples=100, deadline=None)
@given(st.lists(ACTIONS, max_size=80), st.integers(0, 2 ** len(POOL) - 1))
def test_a_restarted_agent_leaves_every_wanted_container_alone(actions: list[tuple[str, int, bool]], bits: int) -> None:
    engine = Engine(Machine())
    for action in actions:
        act(engine, *action)
    engine.want(*(r for bit, r in enumerate(POOL) if bits >> bit & 1))
    engine.settle()
    before = dict(engine.containers)
    restarted = Engine(Machine(generation=engine.generation, presumed_ready=frozenset(before)))
    restarted.containers, restarted.generation = dict(before), engine.generation
    assert engine.target is not None
    restarted.want(*engine.target.replicas.values())
    restarted.settle()
    assert restarted.containers == before
