"""A singleton under partitions, late messages, drifting clocks, crashes and drains, in virtual time from a seed.

Real: the control plane's controller, sessions and reports, and the agents' machines. Simulated: engines, networks,
clocks, the store's disk. At each moment at most one container of the singleton may run in the whole fleet.
"""

from __future__ import annotations

import random
from collections import deque
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
    LeasesRenewed,
    Observe,
    ProbeSucceeded,
    PullImage,
    RemoveContainer,
    SnapshotAccepted,
    StartContainer,
    StartProbing,
    StopContainer,
    Ticked,
)
from agent.core.model import Container, ContainerState
from control_plane.services.nodes import NodeService
from control_plane.sessions import Session
from control_plane.state import Batch
from fleet.snapshot import Snapshot, apply_delta
from locci.v1 import agent_pb2, app_pb2, manifest_pb2, node_pb2, region_pb2, replica_pb2
from tests.simulation.control_plane import OPERATOR, Simulation

STEP_S = 0.25
DRIFT = 0.05
HEARTBEAT_S = 1.0
STOP_TIMEOUT_S = 4
ENGINE_S = 0.8
"""An engine takes at most so long for a start, or for an end beyond the stop timeout."""
EDGE = node_pb2.NODE_ROLE_EDGE
NODES = ("n0", "n1", "n2")


class Host:
    """A host with a real agent's machine on a clock that drifts. Messages take their time, in order."""

    def __init__(self, name: str, rng: random.Random):
        self.name, self.rng = name, rng
        self.rate = 1 + rng.uniform(-DRIFT, DRIFT)
        self.snapshot = Snapshot()
        self.containers: dict[str, Container] = {}
        self.count = 0
        self.dead_until = 0.0
        self.cut_until = 0.0
        self.slow_s = 0.0
        self.leases: dict[str, float] = {}
        self.session: Session | None = None
        self.up: deque[tuple[float, agent_pb2.NodeMessage]] = deque()
        self.down: deque[tuple[float, agent_pb2.ControlMessage]] = deque()
        self.boot(0.0)

    def local(self, now: float) -> float:
        """This host's monotonic clock."""
        return now * self.rate

    def boot(self, now: float) -> None:
        """A fresh agent, with what it wrote down; containers are as they are."""
        self.machine = Machine(leases=self.leases)
        self.work: list[tuple[float, Event]] = []
        self.beats: dict[int, float] = {}
        self.next_beat = 0.0
        self.said: dict[str, bool] = {}
        self.hang_up()
        if self.snapshot.revision:
            self.tell(SnapshotAccepted(decode.target(self.snapshot)), now)
        self.tell(EngineConnected(), now)

    def hang_up(self) -> None:
        """The stream is gone, with what was under way in it."""
        self.session = None
        self.up.clear()
        self.down.clear()

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
            self._carry_out(command, now)
        self.leases = dict(self.machine.world.leases)

    def _carry_out(self, command: Command, now: float) -> None:
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
            case _:
                pass

    def run(self, now: float) -> None:
        """The engine goes on, and the machine looks at its clock."""
        if now < self.dead_until:
            return
        if self.dead_until:
            self.dead_until = 0.0
            self.boot(now)
        while due := [item for item in self.work if item[0] <= now]:
            self.work = [item for item in self.work if item[0] > now]
            for _, event in sorted(due, key=lambda item: item[0]):
                self._happened(event)
                self.tell(event, now)
        self.tell(Ticked(), now)

    def _happened(self, event: Event) -> None:
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


class FencingSimulation(Simulation):
    """One run. `handovers` counts how often the singleton ran on another host than before."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.hosts: dict[str, Host] = {}
        self.holder = NODES[0]
        self.handovers = 0

    async def begin(self) -> None:
        """One region with three hosts, and a singleton."""
        await self._boot()

        def build(batch: Batch) -> None:
            row = region_pb2.Region(name="regions/eu")
            batch.put(self.state.regions, row.name, row)
            for name in NODES:
                node = node_pb2.Node(name=f"nodes/{name}", region=row.name, roles=[EDGE], addresses=["192.0.2.1"])
                node.condition = node_pb2.NODE_CONDITION_JOINING
                batch.put(self.state.nodes, node.name, node)
                self.hosts[name] = Host(name, self.rng)

        await self.state.transact(build)
        await self._boot()
        await self.release()

    async def _boot(self) -> None:
        await super()._boot()
        for host in self.hosts.values():
            host.hang_up()

    async def release(self) -> None:
        """A new release of the singleton."""
        self.releases += 1
        manifest = manifest_pb2.AppManifest(name="one", image="registry.test/one@sha256:" + "1" * 64)
        manifest.env["RELEASE"] = str(self.releases)
        manifest.placement.singleton = True
        manifest.placement.lost_after.FromSeconds(12)
        manifest.placement.fence_after.FromSeconds(4)
        manifest.placement.on_rejoin = self.rejoin
        manifest.stop_timeout.FromSeconds(STOP_TIMEOUT_S)
        manifest.rollout.drain.FromSeconds(1)
        await self.apps.apply_app(app_pb2.ApplyAppRequest(manifest=manifest), OPERATOR)

    async def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += STEP_S
            now = self.clock.now
            self.store.broken = now < self.disk_full_until
            if not self.quiet:
                await self._fault()
            for name in NODES:
                self.hosts[name].run(now)
            self._check_holders()
            if now < self.down_until:
                continue
            for name in NODES:
                await self._exchange(self.hosts[name])
            await self._look()
            for name in NODES:
                self._send_down(self.hosts[name])

    def _check_holders(self) -> None:
        running = [(name, container) for name in NODES for container in self.hosts[name].running]
        if len(running) > 1:
            self.violations.append(f"{running} run at once at {self.clock.now}")
        if running and running[0][0] != self.holder:
            self.handovers += 1
            self.holder = running[0][0]

    async def _fault(self) -> None:
        now = self.clock.now
        host = self.hosts[self.holder if self.rng.random() < 0.6 else self.rng.choice(NODES)]
        up = now >= self.down_until and not self.store.broken
        match self.rng.randrange(160):
            case 0 | 1 | 2:
                host.cut_until = now + self.rng.uniform(1, 40)
            case 3:
                host.slow_s = self.rng.choice([0.0, 0.3, 2.0, 8.0])
            case 4:
                host.crash(now, host=False)
            case 5:
                host.crash(now, host=True)
            case 6 if up:
                self.down_until = now + self.rng.uniform(0, 12)
                await self._boot()
            case 7 if up:
                await self.release()
            case 8:
                self.disk_full_until = now + self.rng.uniform(0, 5)
            case 9 if up:
                await self._drain(host)
            case 10 if up:
                await self.undrain()
            case _:
                pass

    async def _drain(self, host: Host) -> None:
        row = self.state.nodes.need(f"nodes/{host.name}")
        if row.condition in (node_pb2.NODE_CONDITION_READY, node_pb2.NODE_CONDITION_SUSPECT):
            request = node_pb2.DrainNodeRequest(name=row.name)
            request.deadline.FromSeconds(20)
            await NodeService(self.context).drain_node(request, OPERATOR)

    async def undrain(self) -> None:
        """Every node is in service again."""
        for row in self.state.nodes.values():
            if row.condition == node_pb2.NODE_CONDITION_DRAINING:
                await NodeService(self.context).undrain_node(node_pb2.UndrainNodeRequest(name=row.name), OPERATOR)

    # -- the network

    async def _exchange(self, host: Host) -> None:
        now = self.clock.now
        if now < host.dead_until or now < host.cut_until:
            # What is under way arrives after the cut, as TCP has it, unless one side has given the stream up by then.
            if self.rng.random() < 0.03:
                host.hang_up()
            return
        if host.session is None or host.session.goodbye is not None:
            host.hang_up()
            await self._dial(host)
        if host.session is None:
            return
        while host.up and host.up[0][0] <= now:
            self._hear(host, host.up.popleft()[1])
        while host.down and host.down[0][0] <= now:
            self._tell_host(host, host.down.popleft()[1])
        local = host.local(now)
        if local >= host.next_beat:
            host.next_beat = local + HEARTBEAT_S
            sequence = len(host.beats) + 1
            host.beats[sequence] = local
            self._send_up(host, agent_pb2.NodeMessage(heartbeat=agent_pb2.Heartbeat(sequence=sequence)))
        status = host.status(complete=False)
        if status is not None:
            self._send_up(host, agent_pb2.NodeMessage(status=status))

    async def _dial(self, host: Host) -> None:
        held = [agent_pb2.ResourceVersion(name=n, version=r.version) for n, r in host.snapshot.resources.items()]
        hello = agent_pb2.Hello(
            role=EDGE,
            epoch=host.snapshot.epoch,
            resource_types=["replicas", "routes"],
            held=held,
            snapshot_hash=host.snapshot.hash,
            revision=host.snapshot.revision,
        )
        session = await self.welcome(host.name, hello)
        if session is None:
            return
        self.reports.heard(host.name, EDGE, self.clock.now)
        host.session = session
        host.snapshot = host.snapshot.with_epoch(session.epoch)
        status = host.status(complete=True)
        assert status is not None
        self._send_up(host, agent_pb2.NodeMessage(status=status))

    def _send_up(self, host: Host, message: agent_pb2.NodeMessage) -> None:
        at = self.clock.now + self.rng.uniform(0, host.slow_s)
        host.up.append((max([at, *(due for due, _ in host.up)]), message))

    def _send_down(self, host: Host) -> None:
        while host.session is not None and not host.session.outbox.empty():
            at = self.clock.now + self.rng.uniform(0, host.slow_s)
            message = host.session.outbox.get_nowait()
            host.down.append((max([at, *(due for due, _ in host.down)]), message))

    def _hear(self, host: Host, message: agent_pb2.NodeMessage) -> None:
        session = host.session
        if session is None or not self.hub.current(session):
            return
        self.reports.heard(host.name, EDGE, self.clock.now)
        match message.WhichOneof("message"):
            case "heartbeat":
                self.hub.renew_leases(session, message.heartbeat.sequence, self.controller.may_run)
            case "status":
                self.reports.status(host.name, EDGE, message.status)
            case "ack":
                self.hub.answered(session, message.ack)

    def _tell_host(self, host: Host, message: agent_pb2.ControlMessage) -> None:
        now = self.clock.now
        match message.WhichOneof("message"):
            case "delta":
                delta = message.delta
                host.snapshot = apply_delta(host.snapshot, delta)
                host.tell(SnapshotAccepted(decode.target(host.snapshot)), now)
                ack = agent_pb2.Ack(nonce=delta.nonce, revision=delta.revision)
                self._send_up(host, agent_pb2.NodeMessage(ack=ack))
            case "leases":
                made_at = host.beats.get(message.leases.sequence)
                if made_at is not None:
                    host.tell(LeasesRenewed(frozenset(message.leases.resources), made_at), now)

    def out_of_order(self) -> list[str]:
        """What is not as it should be long after the last fault."""
        running = [container for host in self.hosts.values() for container in host.running]
        rows = list(self.state.assignments.values())
        odd = [f"{r.name} on {r.node} lingers" for r in rows if r.stopping or r.displaced]
        return odd if len(running) == 1 else [f"{running} run", *odd]
