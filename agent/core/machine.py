"""The agent's state machine: events in, commands out. It reads no clock and does nothing itself.

After each event that matters it computes anew, from everything it knows, the next steps, what to probe, what the
edge must serve, and what to report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from agent.core import fence
from agent.core import health as healths
from agent.core.edge_view import Drain, EdgeView, edge_view
from agent.core.messages import (
    BeginDrain,
    CancelPull,
    Command,
    ContainerDied,
    ContainerRemoved,
    ContainerStarted,
    ContainerStopped,
    CreateAndStart,
    EdgeSeen,
    EdgeServing,
    EndFailed,
    EngineChanged,
    EngineConnected,
    EngineLost,
    EngineObserved,
    Event,
    ImagePulled,
    LeasesLost,
    LeasesRenewed,
    LogTailCollected,
    ObserveFailed,
    ProbeFailed,
    ProbeSucceeded,
    PublishEdge,
    PullFailed,
    PullImage,
    PullProgressed,
    RemoveContainer,
    ReportStatus,
    SandboxLost,
    SnapshotAccepted,
    StartContainer,
    StartFailed,
    StartProbing,
    Step,
    StopContainer,
    StopProbing,
    Ticked,
    WakeAt,
)
from agent.core.model import Container, Identity, Probe, Purpose, ReplicaStatus, Target
from agent.core.observation import EngineView
from agent.core.plan import choose, next_time, plan
from agent.core.setbacks import Setbacks
from agent.core.status import converged, image_statuses, statuses
from agent.core.world import World

_Probing = dict[tuple[str, Purpose], tuple[Probe, str]]


class Machine:
    """`handle` takes what happened and returns what to do, in order."""

    def __init__(
        self,
        *,
        generation: int = 0,
        presumed_ready: frozenset[str] = frozenset(),
        leases: Mapping[str, float] = MappingProxyType({}),
    ):
        """`generation` is the edge's last one; `presumed_ready` are the containers that were ready before a restart
        of the agent: they stay so until a probe says otherwise. `leases` are those of the same boot of the host."""
        self.world = World(leases=dict(leases))
        self._out: list[Command] = []
        self._engine = EngineView(self.world, presumed_ready)
        self._setbacks = Setbacks(self.world)
        self._generation = generation
        self._published = False
        self._edge_generation = 0
        self._probing: _Probing = {}
        self._statuses: dict[str, ReplicaStatus] = {}
        self._applied = 0
        self._edge_revision = 0
        self._reported = (0, 0, 0)
        self._wake_at: float | None = None

    @property
    def statuses(self) -> dict[str, ReplicaStatus]:
        """What was reported last, by resource."""
        return self._statuses

    @property
    def applied_revision(self) -> int:
        """The newest revision of which everything is in effect."""
        return self._applied

    @property
    def generation(self) -> int:
        """The edge's newest generation."""
        return self._generation

    @property
    def edge_generation(self) -> int:
        """The oldest generation that a connected edge serves; 0 when none is connected."""
        return self._edge_generation

    @property
    def engine_reason(self) -> str:
        """Why the engine cannot be used; empty when it can."""
        return self._engine.reason

    def handle(self, event: Event, now: float) -> list[Command]:
        """What to do now that `event` happened."""
        if self._fold(event, now):
            self._engine.observe_if_due(now)
            self._settle(now)
        commands = [*self._engine.take_commands(), *self._setbacks.take_commands(), *self._out]
        self._out = []
        return commands

    # ---- events

    def _fold(self, event: Event, now: float) -> bool:
        """Takes an event over; whether anything can follow from it."""
        match event:
            case SnapshotAccepted(target):
                self._take_target(target)
            case EngineConnected() | EngineLost() | EngineObserved() | ObserveFailed() | EngineChanged():
                for container, exit_code in self._engine.take(event, now):
                    self._ended(container, exit_code, now)
            case SandboxLost(sandbox_id):
                self._engine.sandbox_lost(sandbox_id)
            case ContainerStarted(container):
                self._started(container, now)
            case ContainerDied(container_id, exit_code, wall_s):
                container_or_none = self._engine.died(container_id, exit_code, wall_s)
                if container_or_none is None:
                    return False
                self._ended(container_or_none, exit_code, now)
            case ContainerStopped(container_id):
                self._stopped(container_id, now)
            case ContainerRemoved(container_id):
                self._engine.removed(container_id)
            case ImagePulled(image):
                self.world.pulling.discard(image)
                self.world.pull_setbacks.pop(image, None)
                self.world.images.add(image)
            case PullProgressed(image, text):
                if image not in self.world.pulling:
                    return False
                self.world.pull_progress[image] = text
            case PullFailed() | StartFailed() | EndFailed():
                self._setbacks.take(event, now)
                if event.engine_lost or not isinstance(event, PullFailed):
                    self._engine.distrust()
            case LogTailCollected():
                self._setbacks.log_tail(event)
            case ProbeSucceeded() | ProbeFailed():
                return self._probed(event, now)
            case EdgeServing():
                self._edges(event, now)
            case EdgeSeen(generation):
                return self._edge_seen(generation)
            case LeasesRenewed(resources, at):
                for resource in resources:
                    self.world.leases[resource] = max(at, self.world.leases.get(resource, at))
            case LeasesLost():
                self.world.leases.clear()
            case Ticked():
                self._wake_at = None
            case _:
                assert_never(event)
        return True

    def _take_target(self, target: Target) -> None:
        world = self.world
        world.target = target
        world.last_known.update(target.replicas)
        wanted = {replica.resource for replica in target.replicas.values()}
        world.leases = fence.kept(world, wanted)
        images = {replica.image for replica in target.replicas.values()} | {held.image for held in target.images}
        world.images &= images
        world.pull_setbacks = {image: s for image, s in world.pull_setbacks.items() if image in images}
        world.pull_progress = {image: text for image, text in world.pull_progress.items() if image in images}
        world.memory = {identity: m for identity, m in world.memory.items() if identity in target.replicas}
        needed = {container.identity for container in world.containers.values()} | set(world.starting)
        world.last_known = {i: r for i, r in world.last_known.items() if i in target.replicas or i in needed}

    def _started(self, container: Container, now: float) -> None:
        world, identity = self.world, container.identity
        world.starting.pop(identity, None)
        early_exit_code = self._engine.started(container)
        world.readiness[container.id] = healths.unknown(now)
        world.liveness[container.id] = healths.presumed_good(now)
        self._setbacks.started(identity)
        if early_exit_code is not None:
            self._ended(container, early_exit_code, now)

    def _ended(self, container: Container, exit_code: int, now: float) -> None:
        """A container that ran no longer does."""
        self._setbacks.ended(container, exit_code, now)
        self._engine.ended(container.id, exit_code)
        self.world.drains.pop(container.id, None)

    def _stopped(self, container_id: str, now: float) -> None:
        container = self.world.containers.get(container_id)
        if container is not None and container.running:
            self._ended(container, 0, now)
        self.world.stopping.discard(container_id)

    def _probed(self, event: ProbeSucceeded | ProbeFailed, now: float) -> bool:
        """Takes an answer over; whether it changed a verdict or its reason."""
        key = (event.container_id, event.purpose)
        book = self.world.readiness if event.purpose is Purpose.READINESS else self.world.liveness
        before = book.get(event.container_id)
        if key not in self._probing or before is None:
            return False
        probe, _ = self._probing[key]
        if isinstance(event, ProbeSucceeded):
            after = healths.after_success(before, probe, now)
        else:
            after = healths.after_failure(before, probe, now, event.reason)
        book[event.container_id] = after
        cut_off = self._elsewhere(event, now)
        return cut_off or (before.good, before.reason) != (after.good, after.reason)

    def _elsewhere(self, event: ProbeSucceeded | ProbeFailed, now: float) -> bool:
        """Counts how long probes have reached somebody else; whether that is long enough from now on."""
        world, container = self.world, self.world.containers.get(event.container_id)
        if container is None or isinstance(event, ProbeSucceeded) or not event.elsewhere:
            world.elsewhere.pop(event.container_id, None)
            return False
        world.elsewhere.setdefault(container.id, now)
        memory = world.remembered(container.identity)
        if container.identity not in world.replicas or memory.recreate or not world.is_cut_off(container, now):
            return False
        self._setbacks.cut_off(container, now)
        return True

    def _edges(self, event: EdgeServing, now: float) -> None:
        self.world.edges = event.edges
        self._edge_generation = event.generation if event.edges else 0
        for container_id, drain in self.world.drains.items():
            if event.edges and 0 < drain.generation <= event.generation:
                since = now if drain.serving_since is None else drain.serving_since
                idle = drain.endpoint is not None and drain.endpoint.resource in event.idle
                self.world.drains[container_id] = replace(drain, serving_since=since, idle=idle)

    def _edge_seen(self, generation: int) -> bool:
        """An edge that is ahead holds a configuration of which this agent has lost count: a newer one replaces it."""
        if generation <= self._generation:
            return False
        self._generation = generation
        self._published = False
        return True

    # ---- what follows

    def _settle(self, now: float) -> None:
        chosen = choose(self.world)
        for container in chosen.values():
            if container.id not in self.world.stopping:
                self.world.drains.pop(container.id, None)
        if self._engine.fresh:
            for step in plan(self.world, now):
                self._begin(step, now)
        self._probe(chosen)
        self._publish(chosen, now)
        self._report(chosen, now)
        self._wake(now)

    def _begin(self, step: Step, now: float) -> None:
        """Notes that a step is under way, so that it is not taken again."""
        world = self.world
        match step:
            case PullImage(image):
                world.pulling.add(image)
                world.pull_progress.pop(image, None)
            case CancelPull(image):
                world.pulling.discard(image)
            case CreateAndStart(replica):
                world.starting[replica.identity] = ""
            case StartContainer(identity, container_id):
                world.starting[identity] = container_id
            case StopContainer(container_id):
                world.stopping.add(container_id)
            case RemoveContainer(container_id):
                world.removing.add(container_id)
            case BeginDrain(container_id, drain_s):
                app = world.containers[container_id].identity.app
                world.drains[container_id] = Drain(app, world.served.endpoint(container_id), now, drain_s)
                return
            case _:
                assert_never(step)
        self._out.append(step)

    def _probe(self, chosen: dict[Identity, Container]) -> None:
        wanted: _Probing = {}
        for identity, container in chosen.items():
            replica = self.world.replicas[identity]
            if not container.running or container.stranded or container.id in self.world.stopping:
                continue
            for purpose, probe in ((Purpose.READINESS, replica.readiness), (Purpose.LIVENESS, replica.liveness)):
                if probe is not None:
                    wanted[container.id, purpose] = (probe, container.ip)
        for key in self._probing.keys() - wanted.keys():
            self._out.append(StopProbing(*key))
        for key, (probe, ip) in wanted.items():
            if self._probing.get(key) != (probe, ip):
                self._out.append(StartProbing(*key, probe, ip, eager=key[1] is Purpose.READINESS))
        self._probing = wanted

    def _publish(self, chosen: dict[Identity, Container], now: float) -> None:
        """Tells the edge, unless it knows. Before the engine was seen once, what the edge has is better."""
        world = self.world
        if world.target is None or not self._engine.seen:
            return
        ready = [(world.replicas[i], c) for i, c in chosen.items() if world.is_ready(c)]
        target, drains = world.target, world.drains.values()
        view: EdgeView = edge_view(target.routes, ready, drains, target.certificates, target.revoked)
        if not self._published or view != world.served:
            self._published = True
            self._generation += 1
            world.served = view
            everyone_ready = frozenset(container.id for _, container in ready)
            self._out.append(PublishEdge(self._generation, view, everyone_ready))
        for container_id, drain in world.drains.items():
            if drain.generation == 0:
                serving_since = now if 0 < self._generation <= self._edge_generation else None
                world.drains[container_id] = replace(drain, generation=self._generation, serving_since=serving_since)

    def _report(self, chosen: dict[Identity, Container], now: float) -> None:
        world = self.world
        if world.target is None:
            return
        after = statuses(world, chosen, self._statuses, self._engine.reason, now)
        after.update(image_statuses(world, self._statuses, self._engine.reason, now))
        if self._engine.fresh and converged(world, chosen, self._generation, self._edge_generation):
            self._applied = world.target.revision
        if 0 < self._generation <= self._edge_generation and self._published:
            self._edge_revision = world.target.revision
        changed = tuple(status for name, status in after.items() if self._statuses.get(name) != status)
        gone = tuple(name for name in self._statuses if name not in after)
        revisions = (world.target.revision, self._applied, self._edge_revision)
        if changed or gone or revisions != self._reported:
            self._out.append(ReportStatus(*revisions[:2], changed, gone, self._edge_revision))
        self._statuses, self._reported = after, revisions

    def _wake(self, now: float) -> None:
        times = [time for time in (next_time(self.world, now), self._engine.next_time(now)) if time is not None]
        at = min(times, default=None)
        if at is not None and at != self._wake_at:
            self._out.append(WakeAt(at))
            self._wake_at = at
