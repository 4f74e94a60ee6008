"""The loop: events go into the machine, its commands are carried out, each result comes back as an event."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, assert_never

import structlog

from agent import decode, decode_faults, encode
from agent.adapters import host_facts
from agent.adapters.edge_socket import EdgeSocket
from agent.adapters.engine import Engine
from agent.adapters.engine_errors import EngineError, PullError
from agent.adapters.image_log import ImageLog
from agent.adapters.lease_file import LeaseFile
from agent.adapters.prober import Prober
from agent.adapters.signatures import Demand, Signatures
from agent.adapters.state import StateFile
from agent.adapters.upgrade_status import UpgradeStatus
from agent.adapters.usage import Usage
from agent.adapters.wanted_version import WantedVersion
from agent.core.conditions import Condition
from agent.core.faults import Fault
from agent.core.machine import Machine
from agent.core.messages import (
    CancelPull,
    CollectLogTail,
    Command,
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
    LeasesLost,
    LeasesRenewed,
    LogTailCollected,
    Observe,
    ObserveFailed,
    PublishEdge,
    PullFailed,
    PullImage,
    PullProgressed,
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
from agent.core.mirrors import combined
from agent.core.model import Identity, Replica
from agent.core.policy import LocalPolicy, allows_image
from agent.core.summary import sentence
from agent.drill_clients import DrillClients
from agent.metrics import Metrics
from agent.outbox import Outbox
from agent.outlook import Outlook
from agent.reporter import Reporter
from fleet.clock import Clock
from fleet.identity import IdentityDirectory
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2

log = structlog.get_logger()

USAGE_EVERY_HEARTBEATS: Final = 10
_ASLEEP_S: Final = 0.5


class Shell:
    """Carries out what the machine commands. It is what the link to the control plane speaks to."""

    def __init__(
        self,
        *,
        engine: Engine,
        policy: LocalPolicy,
        mirrors: Mapping[str, Sequence[str]],
        signatures: Signatures,
        outbox: Outbox,
        images: ImageLog,
        identity: IdentityDirectory,
        state: StateFile,
        leases: LeaseFile,
        edge_path: Path,
        data_path: Path,
        clock: Clock,
        prober: Callable[[Callable[[Event], None]], Prober],
        metrics: Metrics,
        resolver: str,
    ):
        self._engine = engine
        self._policy = policy
        self._mirrors = mirrors
        self._signatures = signatures
        engine.images.passed_over = self._mirror_passed_over
        engine.orphans.record = self.record
        engine.images.progressed = lambda image, text: self.post_from_thread(PullProgressed(image, text))
        self.images = images
        self.usage: dict[str, Usage] = {}
        self._beats = 0
        self._identity = identity
        self._node = identity.facts()
        self._state = state
        self._leases = leases
        self._asleep_s = asleep_s()
        self._data_path = data_path
        self._clock = clock
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._prober = prober(self.post)
        self._events: deque[Event] = deque()
        self._scheduled = False
        self._engine_tried = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self.outlook = Outlook(self._node.node, self._node.region, clock, self._seen)
        self.edge = EdgeSocket(edge_path, self.post, self.outlook.see)
        self.reporter = Reporter(clock, outbox)
        self.drill_clients = DrillClients(clock, resolver)
        self.machine = Machine(generation=state.generation, presumed_ready=state.ready, leases=leases.leases)
        self.wake_link: Callable[[], None] = lambda: None
        """Called when there is something to tell the control plane."""
        self.want_faults: Callable[[list[Fault]], None] = lambda faults: None
        """Called with the faults that an accepted snapshot wants."""
        self.other_disks: Callable[[], tuple[Path, ...]] = tuple
        """Paths on disks, besides the one of the agent's state, whose filling counts."""

    def post(self, event: Event) -> None:
        """Takes an event; it is handled soon, in order. On the event loop only."""
        self._events.append(event)
        if not self._scheduled:
            self._scheduled = True
            # Events come from threads too, whose context knows nothing of the node that log lines name.
            self._loop.call_soon(self._process, context=self._context)

    def post_from_thread(self, event: Event) -> None:
        """The same from any thread; after the end of the loop the event is dropped."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.post, event)

    async def close(self) -> None:
        """Ends what is under way here. Containers, and the edge, go on."""
        if self._timer is not None:
            self._timer.cancel()
        await self._prober.close()
        await self.drill_clients.close()
        await self.outlook.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def engine_tried(self, timeout_s: float) -> None:
        """Returns when the engine was reached or not for the first time, at the latest after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._engine_tried.wait()

    # ---- what the link asks (fleet.rpc.link.SnapshotConsumer)

    def problems(self, snapshot: Snapshot) -> list[agent_pb2.ResourceProblem]:
        return decode.problems(snapshot, self._policy)

    def accepted(self, snapshot: Snapshot) -> None:
        target = decode.target(snapshot)
        try:
            WantedVersion(self._data_path).follow(target.agent_version, target.agent_request)
        except OSError as error:
            log.error("agent_version_not_kept", version=target.agent_version, reason=error.strerror)
        self._want_registries(snapshot)
        self.post(SnapshotAccepted(target))
        self.drill_clients.want(snapshot)
        self.outlook.want(target.routes)
        self.want_faults(decode_faults.wanted(snapshot, self._policy))

    def _want_registries(self, snapshot: Snapshot) -> None:
        told = decode.mirrors(snapshot)
        self._engine.images.logins = decode.logins(snapshot)
        self._engine.images.mirrors_of = lambda image: combined(
            image, self._mirrors, told, lambda name: allows_image(self._policy, name)
        )

    def _demands(self, replica: Replica) -> list[Demand]:
        """Who must have signed its image."""
        app, host = replica.options.public_keys, self._policy.signed_by
        found = ((f"app {replica.app}", app), ("this host's policy (signed_by)", host))
        return [Demand(who, keys) for who, keys in found if keys]

    def _mirror_passed_over(self, mirror: str, reason: str) -> None:
        message = f"images are not pulled from mirror {mirror} for a while: {reason}"
        self.record(RecordEvent("MirrorPassedOver", "warning", (), message, {}))

    def complete_status(self) -> agent_pb2.Status:
        self.reporter.agent_upgrade(UpgradeStatus(self._data_path).read())
        return self.reporter.complete()

    def status_change(self) -> agent_pb2.Status | None:
        return self.reporter.change()

    def events_recorded(self, message: agent_pb2.EventsRecorded) -> None:
        """The control plane has recorded events; if more wait, they are next."""
        self.reporter.outbox.recorded(message)
        if self.reporter.outbox.untold:
            self.wake_link()

    def leases_renewed(self, resources: frozenset[str], at: float) -> None:
        """The control plane lets this node go on to run these replicas."""
        self.post(LeasesRenewed(resources, at))

    def _seen(self) -> None:
        """Something at another node has turned."""
        self.wake_link()

    def evidence(self) -> agent_pb2.Evidence | None:
        return self.outlook.evidence()

    def heartbeat(self) -> agent_pb2.Heartbeat:
        beat = host_facts.heartbeat(self._data_path, *self.other_disks())
        self._beats += 1
        if asleep_s() - self._asleep_s > _ASLEEP_S:
            self._asleep_s = asleep_s()
            self.post(LeasesLost())
        if self.reporter.agent_upgrade(UpgradeStatus(self._data_path).read()):
            self.wake_link()
        beat.drill_clients.extend(self.drill_clients.counts())
        if self._beats % USAGE_EVERY_HEARTBEATS == 0:
            for resource, used in self.usage.items():
                beat.usage.add(resource=resource, cpus=used.cpus, memory_bytes=used.memory_bytes)
        return beat

    def use(self, usage: dict[str, Usage]) -> None:
        """What each replica uses."""
        self.usage = usage
        self._metrics.show_usage(usage)

    def record(self, event: RecordEvent) -> None:
        """Something happened that is to be told."""
        self._carry_out(event)

    def conditions(self, conditions: list[Condition]) -> None:
        """The host's conditions, of which one turned."""
        self._metrics.show_conditions(conditions)
        offset_s = self._clock.wall() - self._clock.monotonic()
        self.reporter.conditions([encode.condition(c, c.since + offset_s) for c in conditions])
        self.wake_link()

    # ---- the loop

    def _process(self) -> None:
        self._scheduled = False
        begun: list[Command] = []
        while self._events:
            event = self._events.popleft()
            if isinstance(event, EngineConnected | EngineLost):
                self._engine_tried.set()
            if isinstance(event, EngineConnected):
                self._engine.orphans.look()
            with self._metrics.reconcile_seconds.time():
                commands = self.machine.handle(event, self._clock.monotonic())
            for command in commands:
                self._metrics.commands.labels(type(command).__name__).inc()
                self._carry_out(command)
            begun += commands
            if isinstance(event, LeasesRenewed | LeasesLost | SnapshotAccepted):
                self._leases.keep(self.machine.world.leases)
            if isinstance(event, EdgeServing):
                self._metrics.edges.set(event.edges)
                self._metrics.edge_generation.labels("serving").set(self.machine.edge_generation)
        if begun:
            self._show(begun)

    def _show(self, begun: list[Command]) -> None:
        statuses = [s for s in self.machine.statuses.values() if s.resource.startswith("replicas/")]
        self._metrics.show(statuses)
        self._metrics.engine_reachable.set(not self.machine.engine_reason)
        self._metrics.revision.labels("accepted").set(self.reporter.accepted_revision)
        self._metrics.revision.labels("applied").set(self.machine.applied_revision)
        self._metrics.edge_generation.labels("published").set(self.machine.generation)
        text = sentence(begun, statuses, self.reporter.accepted_revision)
        if text:
            log.info("reconciled", summary=text)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Observe(number):
                self._spawn(self._observe(number))
            case PullImage(image):
                self._pulls[image] = self._spawn(self._pull(image))
            case CancelPull(image):
                task = self._pulls.pop(image, None)
                if task is not None:
                    task.cancel()
            case CreateAndStart() | StartContainer():
                self._spawn(self._start(command))
            case StopContainer() | RemoveContainer():
                self._spawn(self._end(command))
            case StartProbing():
                self._prober.start(command)
            case StopProbing(container_id, purpose):
                self._prober.stop(container_id, purpose)
            case PublishEdge(generation, view, ready):
                self.edge.publish(encode.edge_config(generation, view, self._node, self._identity.path))
                self._state.publish(generation, ready)
            case ReportStatus():
                self.reporter.report(command)
                self.wake_link()
            case RecordEvent():
                getattr(log, command.severity)("noted", kind=command.kind, message=command.message)
                self.reporter.record(command)
                self.wake_link()
            case CollectLogTail(container_id):
                self._spawn(self._log_tail(container_id))
            case WakeAt(at):
                self._wake_at(at)
            case _:
                assert_never(command)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, at - self._clock.monotonic()), self.post, Ticked())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- commands that take time

    async def _observe(self, number: int) -> None:
        try:
            self.post(EngineObserved(number, await self._engine.observe()))
        except EngineError as error:
            self.post(ObserveFailed(number, error.reason))

    async def _pull(self, image: str) -> None:
        try:
            self.images.pulled(await self._engine.images.pull(image), self._clock.wall())
            self.post(ImagePulled(image))
        except PullError as error:
            self.post(PullFailed(image, error.failure, error.detail, engine_lost=error.lost))

    async def _start(self, command: CreateAndStart | StartContainer) -> None:
        try:
            if isinstance(command, CreateAndStart):
                identity: Identity = command.replica.identity
                await self._signatures.check(command.replica.image, self._demands(command.replica))
                container = await self._engine.create_and_start(command.replica)
            else:
                identity = command.identity
                replica = self.machine.world.replicas.get(identity)
                if replica is None:
                    raise EngineError("it is not wanted any more")
                container = await self._engine.start(command.container_id, replica)
            self.post(ContainerStarted(container))
        except EngineError as error:
            missing = error.missing and isinstance(command, CreateAndStart)
            self.post(
                StartFailed(identity, error.reason, image_missing=missing, engine_lost=error.lost, hung=error.hung)
            )

    async def _end(self, command: StopContainer | RemoveContainer) -> None:
        container_id = command.container_id
        try:
            if isinstance(command, StopContainer):
                await self._engine.stop(container_id, command.timeout_s)
                self.post(ContainerStopped(container_id))
            else:
                await self._engine.remove(container_id, command.force)
                self.post(ContainerRemoved(container_id))
        except EngineError as error:
            self.post(EndFailed(container_id, error.reason, engine_lost=error.lost, hung=error.hung))

    async def _log_tail(self, container_id: str) -> None:
        try:
            text, out_of_memory = await self._engine.log_tail(container_id)
            self.post(LogTailCollected(container_id, text, out_of_memory))
        except EngineError as error:
            log.warning("log_tail_unavailable", container=container_id[:12], reason=error.reason)


def asleep_s() -> float:
    """For how long this host was suspended since its boot: time that the monotonic clock leaves out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
