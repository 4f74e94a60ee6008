"""The control plane with simulated nodes over a faulty network, in virtual time, from a seed.

Real: state, controller, sessions, reports, the services that apply manifests. Simulated: the store's disk, the nodes,
the network, the clock. A seed reproduces a run.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from control_plane import decode, metrics
from control_plane.controller import Controller
from control_plane.core.pace import Pace
from control_plane.core.rollout import TERMINAL
from control_plane.idempotency import Idempotency
from control_plane.observed import Observed
from control_plane.pacing import Pacing
from control_plane.reports import Arrivals, Reports
from control_plane.services.apps import AppService
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.sessions import Hub, Session
from control_plane.state import Batch, State
from control_plane.views import Manifests
from fleet.errors import LocciError
from fleet.snapshot import Snapshot, apply_delta
from locci.v1 import agent_pb2, app_pb2, manifest_pb2, node_pb2, region_pb2, replica_pb2
from tests.fakes.clock import ManualClock
from tests.fakes.registry import FakeRegistry
from tests.fakes.store import MemoryStore

OPERATOR = Caller("operators/sim", "admin")
STEP_S = 0.5
START_S = 1.0
PULL_S = 2.0
BROKEN = "BROKEN"


class VirtualClock(ManualClock):
    """Moved by the simulation only; nobody waits on it."""

    @property
    def now(self) -> float:
        """Seconds, the same on both clocks."""
        return self.monotonic()

    @now.setter
    def now(self, seconds: float) -> None:
        self._now = seconds


class Node:
    """A host: holds what it accepted, runs containers, survives restarts of its program."""

    def __init__(self, name: str, region: str, role: int):
        self.name, self.region, self.role = name, region, role
        self.snapshot = Snapshot()
        self.followed: Snapshot | None = None
        """The one that containers follow."""
        self.checked: Snapshot | None = None
        self.containers: dict[str, float] = {}
        self.started: list[str] = []
        self.images: dict[str, float] = {}
        """Images that it holds without a container, and since when it pulls them."""
        self.session: Session | None = None
        self.cut_until = 0.0
        self.heartbeat_s = 1.0
        self.next_beat = 0.0
        self.talks_since = float("inf")
        """From when on nothing was in the way of its stream."""
        self.said: dict[str, bool] = {}
        self.revisions: list[int] = []

    def run(self, now: float) -> None:
        """Containers follow the snapshot."""
        if self.snapshot is self.followed:
            return
        self.followed = self.snapshot
        wanted = self.snapshot.of_type("replicas")
        for name in [n for n in self.containers if n not in wanted]:
            del self.containers[name]
        for name in wanted:
            if name not in self.containers:
                self.containers[name] = now
                self.started.append(name)
        held = self.snapshot.of_type("images")
        self.images = {name: self.images.get(name, now) for name in held}

    def ready(self, name: str, now: float) -> bool:
        """Whether a container is healthy; those of broken releases never are."""
        spec = self.snapshot.resources[name].replica
        return BROKEN not in spec.env and now - self.containers[name] >= START_S

    def status(self, now: float, *, complete: bool) -> agent_pb2.Status | None:
        """What changed, or everything."""
        current = {name: self.ready(name, now) for name in self.containers}
        current |= {name: now - since >= PULL_S for name, since in self.images.items()}
        changed = [n for n, ready in current.items() if complete or self.said.get(n) != ready]
        gone = [] if complete else [n for n in self.said if n not in current]
        self.said = current
        if not (changed or gone or complete):
            return None
        rows = [
            replica_pb2.ReplicaStatus(resource=n, ready=current[n], phase=replica_pb2.REPLICA_PHASE_RUNNING)
            for n in changed
        ]
        return agent_pb2.Status(replicas=rows, gone=gone, complete=complete)


class Simulation:
    """One run. `violations` holds what must never happen and did."""

    def __init__(self, seed: int, edges: int = 0):
        """With `edges` each region has so many of them."""
        self.rng = random.Random(seed)
        self.edges = edges
        self.clock = VirtualClock(wall=0.0)
        self.clock.now = 1_000.0
        self.store = MemoryStore(self.clock.wall)
        self.registry = FakeRegistry()
        self.nodes: dict[tuple[str, int], Node] = {}
        self.violations: list[str] = []
        self.down_until = 0.0
        self.disk_full_until = 0.0
        self.in_order_since = 0.0
        self.quiet = False
        self.releases = 0
        self.switches = 0
        self.beats_per_s = self.rng.choice([0.5, 4.0, 500.0] if not edges else [100.0, 500.0])
        self.rejoin = self.rng.choice(manifest_pb2.RejoinChoice.values())
        self.once_served: set[tuple[str, str]] = set()

    async def begin(self) -> None:
        """Two or three regions with one to three edges each, or many; DNS servers, one of them on an edge; two apps."""
        await self._boot()

        def build(batch: Batch) -> None:
            for region in ("eu", "us", "ap")[: self.rng.randint(2, 3)]:
                row = region_pb2.Region(name=f"regions/{region}")
                batch.put(self.state.regions, row.name, row)
                edge, dns = node_pb2.NODE_ROLE_EDGE, node_pb2.NODE_ROLE_DNS
                self._add(batch, f"{region}-0", region, edge, dns)
                for number in range(self.edges - 1 if self.edges else self.rng.randint(0, 2)):
                    self._add(batch, f"{region}-{1 + number}", region, edge)
                self._add(batch, f"dns-{region}", region, dns)

        await self.state.transact(build)
        await self._boot()
        for app in ("one", "two"):
            await self.apply(app, broken=False)

    def _add(self, batch: Batch, name: str, region: str, *roles: node_pb2.NodeRole.ValueType) -> None:
        row = node_pb2.Node(name=f"nodes/{name}", region=f"regions/{region}", roles=roles, addresses=["192.0.2.1"])
        row.condition = node_pb2.NODE_CONDITION_JOINING
        batch.put(self.state.nodes, row.name, row)
        for role in roles:
            self.nodes[name, role] = Node(name, region, role)

    async def _boot(self) -> None:
        """A fresh control-plane process on the same store."""
        self.state = State(self.store)
        await self.state.load()
        now = self.clock.now
        self.observed = Observed(now, now + 5.0)
        manifests = Manifests(self.state)
        pacing = Pacing(self.state, manifests, Pace(1.0, self.beats_per_s), 20.0)
        self.hub = Hub(self.observed, self.clock.monotonic, pacing)
        woken = asyncio.Event()
        self.reports = Reports(self.state, self.observed, self.clock.monotonic, woken.set)
        nothing_sealed: Any = None
        self.controller = Controller(
            self.state,
            self.observed,
            manifests,
            self.hub,
            self.reports,
            woken,
            nothing_sealed,
            self.clock,
            self.clock.monotonic,
            suspect_after_s=2.5,
            pacing=pacing,
        )
        authority: Any = None
        self.context = Context(
            *(self.state, self.observed, manifests, self.hub, self.controller, authority, self.registry, self.clock),
            steady=self.clock.monotonic,
            node_endpoints=(),
            idempotency=Idempotency(self.state, self.clock),
            vault=nothing_sealed,
            backups=nothing_sealed,
        )
        self.apps = AppService(self.context)
        for node in self.nodes.values():
            node.session = None

    async def apply(self, app: str, *, broken: bool) -> None:
        """A new release of an app."""
        self.releases += 1
        image = f"registry.test/{app}:{self.releases % 3}"
        manifest = manifest_pb2.AppManifest(name=app, image=image, hostnames=[f"{app}.example.net"])
        manifest.ports.add(container_port=80)
        manifest.env["RELEASE"] = str(self.releases)
        if broken:
            manifest.env[BROKEN] = "1"
        manifest.placement.lost_after.FromSeconds(10)
        manifest.placement.replicas_per_region = (1 if app == "one" else 2) + self.edges // 20
        manifest.placement.on_rejoin = self.rejoin
        manifest.rollout.health_deadline.FromSeconds(8)
        manifest.rollout.progress_deadline.FromSeconds(30)
        manifest.rollout.prefetch_deadline.FromSeconds(8)
        match self.rng.randrange(4) if app == "two" else 0:
            case 1:
                manifest.rollout.strategy = manifest_pb2.ROLLOUT_STRATEGY_CANARY
                manifest.rollout.canary_percent = 50
                manifest.rollout.canary_bake.FromSeconds(3)
            case 2 | 3:
                manifest.rollout.strategy = manifest_pb2.ROLLOUT_STRATEGY_BLUE_GREEN
                manifest.rollout.hold.FromSeconds(5)
            case _:
                manifest.rollout.max_unavailable = 0 if app == "one" else 1
        await self.apps.apply_app(app_pb2.ApplyAppRequest(manifest=manifest), OPERATOR)

    # -- one step

    async def run(self, seconds: float) -> None:
        """Faults and work for so long."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += STEP_S
            if not self.quiet:
                await self._fault()
            self.store.broken = self.clock.now < self.disk_full_until
            if self.clock.now < self.down_until or self.store.broken:
                self.in_order_since = self.clock.now
            if self.clock.now < self.down_until:
                continue
            for key in sorted(self.nodes):
                await self._talk(self.nodes[key])
            before, switched = self._healthy_slots(), self._switched()
            await self._look()
            self._check_bound(before)
            self._check_switch(self._switched() - switched)
            self._check()

    async def _look(self) -> None:
        failures = _pass_failures()
        try:
            await self.controller.look()
        except LocciError as error:
            if not self.store.broken:
                self.violations.append(f"a look failed: {error.message}")
        if _pass_failures() != failures:
            self.violations.append("an app could not be looked at")
        # A large fleet is offered what is new in slices; some wait for their turn longer than others.
        for _ in range(self.rng.randint(1, 4) if self.edges else 0):
            await asyncio.sleep(0)

    async def _fault(self) -> None:
        node = self.nodes[self.rng.choice(sorted(self.nodes))]
        match self.rng.randrange(60):
            case 0 | 1:
                node.cut_until = self.clock.now + self.rng.uniform(1, 25)
            case 2:
                for other in self.nodes.values():
                    if other.region == node.region:
                        other.cut_until = self.clock.now + self.rng.uniform(1, 25)
            case 3:
                node.session = None
            case 4 if self.clock.now >= self.down_until:
                self.down_until = self.clock.now + self.rng.uniform(0, 8)
                await self._boot()
            case 5 | 6 if not self.store.broken:
                await self.apply(self.rng.choice(["one", "two"]), broken=self.rng.random() < 0.4)
            case 7:
                self.disk_full_until = self.clock.now + self.rng.uniform(0, 10)

    async def _talk(self, node: Node) -> None:
        now = self.clock.now
        node.run(now)
        if now < node.cut_until:
            # The host's keepalive finds out; the control plane does not.
            node.session, node.talks_since = None, float("inf")
            return
        node.talks_since = min(node.talks_since, now)
        if node.session is None or node.session.goodbye is not None:
            await self._connect(node)
        session = node.session
        if session is None:
            return
        if now >= node.next_beat:
            node.next_beat = now + node.heartbeat_s * self.rng.uniform(0.9, 1.0)
            self.reports.heard(node.name, node.role, now)
            self.hub.beat(session, agent_pb2.Heartbeat())
        while not session.outbox.empty():
            message = session.outbox.get_nowait()
            if message.HasField("pace"):
                node.heartbeat_s = message.pace.heartbeat_interval.ToTimedelta().total_seconds()
                node.next_beat = min(node.next_beat, now + node.heartbeat_s)
            if message.HasField("delta"):
                self.reports.heard(node.name, node.role, now)
                self._take(node, session, message.delta)
        node.run(now)
        status = node.status(now, complete=False)
        if status is not None:
            self.reports.heard(node.name, node.role, now)
            self.reports.status(node.name, node.role, status)

    async def _connect(self, node: Node) -> None:
        types = (
            ["images", "replicas", "routes"]
            if node.role == node_pb2.NODE_ROLE_EDGE
            else ["regions", "hostnames", "zones"]
        )
        held = node.snapshot.resources
        hello = agent_pb2.Hello(
            role=node.role,  # type: ignore[arg-type]
            epoch=node.snapshot.epoch,
            resource_types=types,
            held=[agent_pb2.ResourceVersion(name=n, version=r.version) for n, r in held.items()],
            snapshot_hash=node.snapshot.hash,
            revision=node.snapshot.revision,
            paced=True,
        )
        session = await self.welcome(node.name, hello)
        if session is None:
            return
        epoch = session.epoch
        node.session, node.heartbeat_s, node.next_beat = session, session.heartbeat_s, self.clock.now
        node.snapshot = node.snapshot.with_epoch(epoch)
        status = node.status(self.clock.now, complete=True)
        assert status is not None
        self.reports.status(node.name, node.role, status)

    async def welcome(self, name: str, hello: agent_pb2.Hello) -> Session | None:
        """A session of a node, as the control plane begins it; None while its store is out of order."""
        facts = self.observed.session(name, hello.role)
        stored = [s.epoch for s in self.state.nodes.need(f"nodes/{name}").sessions if s.role == hello.role]
        epoch = 1 + max([facts.epoch, *stored])
        if epoch <= hello.epoch:
            self.violations.append(f"the epoch of {name} went back")
        session = Session(name, hello, epoch)
        try:
            await Arrivals(self.state).note(name, hello, epoch, self.clock.now)
        except LocciError:
            return None
        self.hub.welcomed(session)
        self.hub.enter(session)
        self.reports.heard(name, hello.role, self.clock.now)
        self.hub.deliver(session)
        return session

    def _take(self, node: Node, session: Session, delta: agent_pb2.Delta) -> None:
        if self.rng.random() < 0.02 and not self.quiet:
            problems = [agent_pb2.ResourceProblem(message="the disk is full")]
            self.hub.refused(session, agent_pb2.Nack(nonce=delta.nonce, problems=problems))
            return
        after = apply_delta(node.snapshot, delta)
        if after.revision < node.snapshot.revision:
            self.violations.append(f"the revision of {node.name} went back")
        node.snapshot = after
        self.hub.answered(session, agent_pb2.Ack(nonce=delta.nonce, revision=delta.revision))

    # -- what must hold

    def _check(self) -> None:
        for node in self.nodes.values():
            if node.snapshot is not node.checked:
                node.checked = node.snapshot
                self._check_hostnames(node)
            since = max(node.talks_since, self.in_order_since)
            judged = node.role == node_pb2.NODE_ROLE_EDGE or (node.name, node_pb2.NODE_ROLE_EDGE) not in self.nodes
            if judged and self.clock.now - since > 2.0 and self._is_thought_silent(node):
                self.violations.append(f"{node.name} is thought to be silent at {self.clock.now}")
        if len(self.observed.sessions) > len(self.nodes):
            self.violations.append("there are sessions of nobody")

    def _check_hostnames(self, node: Node) -> None:
        for name, resource in node.snapshot.of_type("hostnames").items():
            total = sum(e.healthy_replicas for e in resource.hostname.endpoints)
            if total:
                self.once_served.add((node.name, name))
            elif (node.name, name) in self.once_served and not resource.hostname.endpoints:
                self.violations.append(f"{node.name} holds no endpoint for {name} at {self.clock.now}")

    def _is_thought_silent(self, node: Node) -> bool:
        condition = self.state.nodes.need(f"nodes/{node.name}").condition
        return condition in (node_pb2.NODE_CONDITION_SUSPECT, node_pb2.NODE_CONDITION_LOST)

    def _healthy_slots(self) -> dict[str, int]:
        """By app, the slots that have a replica which is wanted and healthy by its node's last word."""
        slots: dict[str, set[int]] = {}
        for row in self.state.assignments.values():
            if row.healthy and not row.stopping:
                slots.setdefault(row.app, set()).add(row.ordinal)
        return {app: len(ordinals) for app, ordinals in slots.items()}

    def _check_bound(self, before: dict[str, int]) -> None:
        """A look of the controller alone never takes an app below its bound."""
        after = self._healthy_slots()
        for app in self.state.apps.values():
            name = app.name.rpartition("/")[2]
            least = self.state.rollouts.need(app.rollout).wanted - app.manifest.rollout.max_unavailable
            if after.get(name, 0) < min(before.get(name, 0), least):
                self.violations.append(f"{app.name} was taken below {least} at {self.clock.now}")

    def _switched(self) -> set[str]:
        """Rollouts whose requests have gone over."""
        return {row.name for row in self.state.rollouts.values() if row.HasField("switch_time")}

    def _check_switch(self, rollouts: set[str]) -> None:
        """Requests go over only to a release that is there as a whole."""
        for name in rollouts:
            self.switches += 1
            row = self.state.rollouts.need(name)
            hashed = self.state.releases.need(row.to_release).spec_hash
            app = name.split("/")[1]
            held = [r for r in self.state.assignments.values() if r.app == app and r.spec_hash == hashed]
            if len({r.ordinal for r in held if r.healthy and not r.stopping}) < row.wanted:
                self.violations.append(f"{name} went over before all of it was healthy, at {self.clock.now}")

    def unsettled(self) -> list[str]:
        """What has not converged; to be asked long after the last fault."""
        result = [
            f"{rollout.name} is {decode.state_of(rollout).value}: {rollout.reason}"
            for rollout in self.state.rollouts.values()
            if decode.state_of(rollout) not in TERMINAL
        ]
        for node in self.nodes.values():
            row = self.state.nodes.need(f"nodes/{node.name}")
            if row.condition != node_pb2.NODE_CONDITION_READY:
                result.append(f"{node.name} is {decode.condition_of(row).value}")
            wanted = {n for n in node.snapshot.resources if n.startswith("replicas/")}
            if wanted != set(node.containers):
                result.append(f"{node.name} runs {sorted(node.containers)} and holds {sorted(wanted)}")
        for name, row in self.state.assignments.items():
            if row.stopping or row.displaced:
                result.append(f"{name} is {'stopping' if row.stopping else 'displaced'}")
        for app in self.state.apps.values():
            result.extend(self._missing(app))
        return result

    def _missing(self, app: app_pb2.App) -> list[str]:
        rollout = self.state.rollouts.need(app.rollout)
        held = [r for r in self.state.assignments.values() if r.app == app.name.rpartition("/")[2]]
        if len({r.ordinal for r in held}) != rollout.wanted:
            return [f"{app.name} has {len(held)} replicas of {rollout.wanted}"]
        failed = decode.state_of(rollout).value == "failed"
        return [f"{r.name} is not healthy" for r in held if not r.healthy and not failed]


def _pass_failures() -> float:
    return next(s.value for m in metrics.PASS_FAILURES.collect() for s in m.samples if s.name.endswith("_total"))
