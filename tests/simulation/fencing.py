"""A singleton under partitions, late messages, drifting clocks, crashes and drains, in virtual time from a seed.

Real: the control plane's controller, sessions and reports, and the agents' machines. Simulated: engines, networks,
clocks, the store's disk. At each moment at most one container of the singleton may run in the whole fleet.
"""

from __future__ import annotations

import random
from collections import deque

from agent import decode
from agent.core.messages import LeasesRenewed, SnapshotAccepted
from control_plane.services.nodes import NodeService
from control_plane.sessions import Session
from control_plane.state import Batch
from fleet.snapshot import apply_delta
from locci.v1 import agent_pb2, app_pb2, manifest_pb2, node_pb2, region_pb2
from tests.simulation.agent_host import AgentHost
from tests.simulation.control_plane import OPERATOR, Simulation

STEP_S = 0.25
HEARTBEAT_S = 1.0
STOP_TIMEOUT_S = 4
EDGE = node_pb2.NODE_ROLE_EDGE
NODES = ("n0", "n1", "n2")


class Host(AgentHost):
    """A host on the network: messages take their time, in order."""

    def __init__(self, name: str, rng: random.Random):
        self.cut_until = 0.0
        self.slow_s = 0.0
        self.session: Session | None = None
        self.up: deque[tuple[float, agent_pb2.NodeMessage]] = deque()
        self.down: deque[tuple[float, agent_pb2.ControlMessage]] = deque()
        super().__init__(name, rng)

    def hang_up(self) -> None:
        """The stream is gone, with what was under way in it."""
        self.session = None
        self.up.clear()
        self.down.clear()


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
