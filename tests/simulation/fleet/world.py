"""A whole fleet over a faulty network, in virtual time, from a seed.

Real: the control plane's controller, sessions, reports, drills and services; agents' machines, the faults that they
inject, and what they see of others; edges' choice among endpoints; DNS servers' feeds, tables, brains and answers.
Simulated: engines, disks, packets, clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.core.messages import LeasesRenewed
from agent.core.vantage import LOOK_INTERVAL_S, Sight
from control_plane.services.drills import DrillService
from control_plane.sessions import Session
from control_plane.state import Batch
from fleet.errors import Code, LocciError
from fleet.snapshot import apply_delta
from locci.v1 import agent_pb2, app_pb2, drill_pb2, manifest_pb2, node_pb2, region_pb2
from routing.core.evidence import Target
from routing.core.failover import ChangeRotation, Command
from routing.core.verdict import Rule
from tests.fakes.store import MemoryStore
from tests.simulation.control_plane import OPERATOR, STEP_S, Simulation, VirtualClock
from tests.simulation.fleet.host import EDGE, EdgeHost
from tests.simulation.fleet.name_server import DNS, NameServer
from tests.simulation.fleet.network import CONTROL, Network, Stream
from tests.simulation.routing.probing import Path, Probing, Server, look
from tests.simulation.timeline import Timeline

PLACES = {"eu": (50.1, 8.7), "us": (39.0, -77.5), "ap": (1.3, 103.8)}
TICK_S = STEP_S / 2
WOKEN_S = 0.01
FEED_DEAD_S = 2.0
JUSTIFIED_S = 6.5
"""An edge that is withdrawn could not be reached so shortly before, at the latest: the wait for others, and a look."""
_ALONE = (Rule.OWN_PROBES, Rule.PARTIAL)
Member = EdgeHost | NameServer


class FleetClock(VirtualClock):
    """The control plane's clocks; the wall clock may jump."""

    def __init__(self, time: Timeline):
        super().__init__(wall=0.0)
        self.time = time
        self.jump_s = 0.0

    def monotonic(self) -> float:
        return self.time.now

    def wall(self) -> float:
        return self.time.now + self.jump_s


@dataclass
class Line:
    """A program's connection to the control plane."""

    member: Member
    give_up_s: float
    session: Session | None = None
    up: Stream | None = None
    down: Stream | None = None
    blocked_since: float | None = None
    redial_at: float = 0.0
    next_beat: float = 0.0
    beats: dict[int, float] = field(default_factory=dict)
    told: bytes = b""

    def close(self) -> None:
        """The stream is gone, with what was under way in it."""
        for stream in (self.up, self.down):
            if stream is not None:
                stream.close()
        self.session = self.up = self.down = self.blocked_since = None
        self.told = b""


class Fleet(Simulation):
    """One run. `violations` holds what must never happen and did."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.time = Timeline(1_000.0)
        self.clock: FleetClock = FleetClock(self.time)
        self.store = MemoryStore(self.clock.wall)
        self.beats_per_s = 500.0
        self.network = Network(PLACES)
        self.hosts: dict[str, EdgeHost] = {}
        self.servers: list[NameServer] = []
        self.lines: list[Line] = []
        self.bad_at: dict[tuple[str, str], float] = {}
        """When a DNS server could last not reach an edge, or was refused."""
        self._woken = False
        self._probing = Probing(self.time, self.rng, self._path, self._execute, lambda server: None)

    # -- the scene

    async def begin(self) -> None:
        """Three regions with an edge or two, DNS servers on them or beside them, two apps, two drills."""
        await self._boot()
        beside = self.rng.random() < 0.5

        def build(batch: Batch) -> None:
            for region, (latitude, longitude) in PLACES.items():
                row = region_pb2.Region(name=f"regions/{region}", latitude=latitude, longitude=longitude)
                batch.put(self.state.regions, row.name, row)
                for number in range(1, 2 + (self.rng.random() < 0.3)):
                    dns = number == 1 and region != "ap" and not beside
                    self._join(batch, f"{region}-{number}", region, EDGE, *((DNS,) if dns else ()))
                if beside and region != "ap":
                    self._join(batch, f"dns-{region}", region, DNS)

        await self.state.transact(build)
        await self._boot()
        for app in ("one", "two"):
            await self.apply(app, broken=False)
        for region in ("eu", "ap"):
            await self._declare(region)
        self.time.at(self.time.now, self._tick)
        for host in self.hosts.values():
            self.time.at(self.time.now + self.rng.random(), self._looker(host))

    def _join(self, batch: Batch, name: str, region: str, *roles: node_pb2.NodeRole.ValueType) -> None:
        address = f"192.0.2.{1 + len(self.lines)}"
        row = node_pb2.Node(name=f"nodes/{name}", region=f"regions/{region}", roles=roles, addresses=[address])
        row.condition = node_pb2.NODE_CONDITION_JOINING
        batch.put(self.state.nodes, row.name, row)
        members: list[Member] = []
        if EDGE in roles:
            host = self.hosts[name] = EdgeHost(name, region, self.rng, self.network, lambda: self.time.now)
            members.append(host)
        if DNS in roles:
            server = NameServer(name, region, self.clock, self._probing.handle)
            self.servers.append(server)
            members.append(server)
        for member in members:
            line = Line(member, self.rng.uniform(3, 12))
            self.lines.append(line)
            if isinstance(member, EdgeHost):
                member.on_hang_up = line.close

    async def _boot(self) -> None:
        await super()._boot()
        self.drills = DrillService(self.context)
        for line in getattr(self, "lines", ()):
            line.close()
            line.redial_at = self.clock.now + self.rng.uniform(0.1, 1.0)

    async def _declare(self, region: str) -> None:
        spec = drill_pb2.DrillSpec(target=f"regions/{region}", hostname="one.example.net")
        kinds = (drill_pb2.FAULT_KIND_REGION_CUT, drill_pb2.FAULT_KIND_INBOUND_CUT, drill_pb2.FAULT_KIND_OUTBOUND_CUT)
        spec.fault = self.rng.choice(kinds)
        spec.fault_duration.FromSeconds(self.rng.randint(3, 12))
        request = drill_pb2.CreateDrillRequest(drill_id=f"cut-{region}", drill=drill_pb2.Drill(spec=spec))
        await self.drills.create_drill(request, OPERATOR)

    async def drill(self, region: str) -> bool:
        """Runs a drill; whether it could begin."""
        try:
            await self.drills.run_drill(drill_pb2.RunDrillRequest(name=f"drills/cut-{region}"), OPERATOR)
        except LocciError as error:
            if error.code not in (Code.FAILED_PRECONDITION, Code.UNAVAILABLE):
                raise
            return False
        self._wake()
        return True

    async def apply(self, app: str, *, broken: bool) -> None:
        self.releases += 1
        image = f"registry.test/{app}:{self.releases % 3}"
        manifest = manifest_pb2.AppManifest(name=app, image=image, hostnames=[f"{app}.example.net"])
        manifest.ports.add(container_port=80)
        manifest.env["RELEASE"] = str(self.releases)
        if broken:
            manifest.env["BROKEN"] = "1"
        manifest.placement.replicas_per_region = 1 if app == "one" else 2
        manifest.placement.lost_after.FromSeconds(15)
        manifest.placement.on_rejoin = self.rejoin
        manifest.stop_timeout.FromSeconds(2)
        manifest.rollout.health_deadline.FromSeconds(8)
        manifest.rollout.progress_deadline.FromSeconds(30)
        manifest.rollout.prefetch_deadline.FromSeconds(8)
        await self.apps.apply_app(app_pb2.ApplyAppRequest(manifest=manifest), OPERATOR)

    # -- time

    async def play(self, seconds: float) -> None:
        """Lets time pass."""
        await self.time.play(seconds)

    @property
    def control_plane_up(self) -> bool:
        """Whether there is a control plane now."""
        return self.time.now >= self.down_until

    async def _tick(self) -> None:
        now = self.time.now
        self.store.broken = now < self.disk_full_until
        for host in self.hosts.values():
            host.run(now)
        for server in self.servers:
            if server.dead_until and now >= server.dead_until and self._powered(server.name):
                self._probing.forget(server)
                server.boot()
        self._note_ways()
        for line in self.lines:
            await self._exchange(line)
        if self.control_plane_up:
            await self._look_at_all()
        self.time.at(now + TICK_S, self._tick)

    def _wake(self) -> None:
        """Something was heard: the controller looks soon."""
        if not self._woken:
            self._woken = True
            self.time.at(self.time.now + WOKEN_S, self._look_soon)

    async def _look_soon(self) -> None:
        self._woken = False
        if self.control_plane_up:
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        before, switched = self._healthy(), self._switched()
        await self._look()
        self._check_taken(before)
        self._check_switch(self._switched() - switched)
        for line in self.lines:
            self._send_down(line)

    def _healthy(self) -> dict[str, tuple[str, int]]:
        """App and slot of each assignment that is wanted and healthy by its node's last word."""
        rows = self.state.assignments.items()
        return {key: (row.app, row.ordinal) for key, row in rows if row.healthy and not row.stopping}

    def _check_taken(self, before: dict[str, tuple[str, int]]) -> None:
        """A look of the controller alone never takes an app below its bound, whatever ends by itself meanwhile."""
        rows = self.state.assignments
        kept = {slot for key, slot in before.items() if key in rows and not rows.need(key).stopping}
        kept |= set(self._healthy().values())
        for app in self.state.apps.values():
            name = app.name.rpartition("/")[2]
            least = self.state.rollouts.need(app.rollout).wanted - app.manifest.rollout.max_unavailable
            counts = [len({ordinal for of, ordinal in slots if of == name}) for slots in (set(before.values()), kept)]
            if counts[1] < min(counts[0], least):
                self.violations.append(f"{app.name} was taken below {least} at {self.time.now:.2f}")

    # -- connections

    def _powered(self, name: str) -> bool:
        return name not in self.hosts or self.hosts[name].powered

    def _clear(self, member: Member) -> bool:
        return self.network.whole(member.name, member.region, CONTROL, CONTROL)

    async def _exchange(self, line: Line) -> None:
        now, member = self.time.now, line.member
        if not member.up:
            line.close()
            return
        if self._clear(member):
            line.blocked_since = None
        else:
            line.blocked_since = now if line.blocked_since is None else line.blocked_since
        blocked_s = 0.0 if line.blocked_since is None else now - line.blocked_since
        if blocked_s > line.give_up_s or (line.session is not None and line.session.goodbye is not None):
            line.close()
            line.redial_at = now + self.rng.uniform(0.1, 1.0)
        if line.session is None and self.control_plane_up and self._clear(member) and now >= line.redial_at:
            await self._dial(line)
        if isinstance(member, NameServer):
            member.hear_of_feed(line.session is not None and blocked_s < FEED_DEAD_S)
        if line.session is not None:
            self._speak(line)

    async def _dial(self, line: Line) -> None:
        member = line.member
        snapshot = member.snapshot
        hello = agent_pb2.Hello(
            role=member.role,
            epoch=snapshot.epoch,
            resource_types=member.types,
            held=[agent_pb2.ResourceVersion(name=n, version=r.version) for n, r in snapshot.resources.items()],
            snapshot_hash=snapshot.hash,
            revision=snapshot.revision,
            paced=True,
        )
        if isinstance(member, NameServer):
            hello.cut_proven_within.FromMilliseconds(round(1000 * member.brain.cadence.cut_proven_s))
        session = await self.welcome(member.name, hello)
        if session is None:
            line.redial_at = self.time.now + self.rng.uniform(0.1, 2.0)
            return
        member.snapshot = snapshot.with_epoch(session.epoch)
        line.session, line.next_beat, line.beats = session, self.time.now, {}
        here, there = (member.name, member.region), (CONTROL, CONTROL)
        line.up = self._stream(member, lambda: self.network.passes(*here, *there), lambda m: self._hear(line, m))
        line.down = self._stream(member, lambda: self.network.passes(*there, *here), lambda m: self._tell(line, m))
        self._say(line, status=member.status(complete=True))
        line.told = b""
        self._send_down(line)

    def _stream(self, member: Member, passes: Callable[[], bool], deliver: Callable[[Any], None]) -> Stream:
        slow_s = self.network.slow_s

        def delay_s() -> float:
            return 0.03 + self.rng.uniform(0, 0.02 + slow_s.get(member.name, 0.0))

        return Stream(self.time, self.rng, self.network, passes, delay_s, deliver)

    def _say(self, line: Line, **message: Any) -> None:
        if line.up is not None and all(body is not None for body in message.values()):
            line.up.send(agent_pb2.NodeMessage(**message))

    def _speak(self, line: Line) -> None:
        now, member = self.time.now, line.member
        if now >= line.next_beat:
            line.next_beat = now + self.rng.uniform(0.9, 1.0)
            beat = member.heartbeat() if isinstance(member, NameServer) else agent_pb2.Heartbeat()
            beat.sequence = len(line.beats) + 1
            if isinstance(member, EdgeHost):
                line.beats[beat.sequence] = member.local(now)
            self._say(line, heartbeat=beat)
        if isinstance(member, EdgeHost):
            self._say(line, status=member.status(complete=False))
            evidence = member.evidence(now)
            told = evidence.SerializeToString(deterministic=True)
            if told != line.told:
                line.told = told
                self._say(line, evidence=evidence)
        elif not line.told:
            line.told = b"once"
            self._say(line, evidence=member.feed.evidence())

    def _send_down(self, line: Line) -> None:
        while line.session is not None and line.down is not None and not line.session.outbox.empty():
            line.down.send(line.session.outbox.get_nowait())

    def _hear(self, line: Line, message: agent_pb2.NodeMessage) -> None:
        session, member = line.session, line.member
        if session is None or not self.hub.current(session) or not self.control_plane_up:
            return
        self.reports.heard(member.name, member.role, self.time.now)
        match message.WhichOneof("message"):
            case "heartbeat":
                self.hub.beat(session, message.heartbeat)
                self.hub.renew_leases(session, message.heartbeat.sequence, self.controller.may_run)
                self._send_down(line)
            case "status":
                self.reports.status(member.name, member.role, message.status)
                self._wake()
            case "evidence":
                self.reports.evidence(member.name, member.role, message.evidence)
                self._wake()
            case "ack":
                self.hub.answered(session, message.ack)
                self._send_down(line)
            case "nack":
                self.hub.refused(session, message.nack)

    def _tell(self, line: Line, message: agent_pb2.ControlMessage) -> None:
        member, now = line.member, self.time.now
        match message.WhichOneof("message"):
            case "delta":
                delta = message.delta
                if self.rng.random() < 0.02 and not self.quiet:
                    problems = [agent_pb2.ResourceProblem(message="the disk is full")]
                    self._say(line, nack=agent_pb2.Nack(nonce=delta.nonce, problems=problems))
                    return
                after = apply_delta(member.snapshot, delta)
                if after.revision < member.snapshot.revision:
                    self.violations.append(f"the revision of {member.name} went back")
                member.accept(after, now)
                self._say(line, ack=agent_pb2.Ack(nonce=delta.nonce, revision=delta.revision))
            case "leases" if isinstance(member, EdgeHost):
                made_at = line.beats.get(message.leases.sequence)
                if made_at is not None:
                    member.tell(LeasesRenewed(frozenset(message.leases.resources), made_at), now)

    # -- probes

    def _path(self, server: Server, target: Target) -> Path:
        return self._way(server.node, server.region, target.node, target.region)

    def _way(self, one: str, of: str, node: str, at: str) -> Path:
        host = self.hosts[node]
        whole = host.powered and self._powered(one) and self.network.whole(one, of, node, at)
        slow_s = min(0.1, self.network.slow_s.get(node, 0.0))
        loss = 0.0 if of == at else self.network.loss
        return Path(whole, self.network.round_trip_s(of, at) + slow_s, loss, not host.edge.up)

    def _note_ways(self) -> None:
        for server in self.servers:
            for host in self.hosts.values():
                path = self._way(server.name, server.region, host.name, host.region)
                if not path.whole or path.refuses:
                    self.bad_at[server.name, host.name] = self.time.now

    def _execute(self, server: Server, command: Command) -> None:
        assert isinstance(server, NameServer)
        if isinstance(command, ChangeRotation):
            server.log.append((self.time.now, command.target.key, command.verdict))
            self._check_withdrawal(server, command)
        server.feed.on_command(command)
        line = next(line for line in self.lines if line.member is server)
        if line.session is not None:
            self._say(line, status=server.status(complete=False))
            self._say(line, evidence=server.feed.evidence())

    def _check_withdrawal(self, server: NameServer, command: ChangeRotation) -> None:
        verdict, (node, family) = command.verdict, command.target.key
        if verdict.in_rotation or verdict.rule is Rule.DRAINING:
            return
        what = f"{server.name} withdrew {node} at {self.time.now:.2f} by {verdict.rule.value}: {verdict.evidence}"
        if self.time.now - self.bad_at.get((server.name, node), float("-inf")) > JUSTIFIED_S:
            self.violations.append(f"{what}, although it could reach it all the time")
        if verdict.rule in _ALONE and server.brain.brake(family).applied:
            self.violations.append(f"{what}, although its brake is on")

    def _looker(self, host: EdgeHost) -> Callable[[], None]:
        def look_around() -> None:
            now = self.time.now
            self.time.at(now + LOOK_INTERVAL_S, look_around)
            if not host.up:
                return
            if host.edge.up:
                host.edge.look(now, lambda address: self._edge_answers(host, address))
            for other in host.neighbours():
                if other.node in self.hosts:
                    self._look_from(host, other.node)

        return look_around

    def _look_from(self, host: EdgeHost, node: str) -> None:
        before = host.sights.get(node, Sight())
        path = self._way(host.name, host.region, node, self.hosts[node].region)
        takes_s, reason = look(path, before, self.rng)

        def looked() -> None:
            if host.up:
                sight = host.sights.get(node, Sight())
                host.sights[node] = sight.looked(reason, self.time.now, path.round_trip_s)

        self.time.at(self.time.now + takes_s, looked)

    # -- requests

    def _edge_answers(self, host: EdgeHost, address: str) -> bool:
        if not address.startswith("edge of "):
            container = host.containers.get(address)
            return container is not None and container.running
        other = self.hosts.get(address.removeprefix("edge of "))
        return other is not None and self._way(host.name, host.region, other.name, other.region).whole and other.edge.up

    def request(self, region: str, address: str, hostname: str) -> bool:
        """Whether a client in a region that asks the edge at an address gets an answer."""
        nodes = {a: n.name.removeprefix("nodes/") for n in self.state.nodes.values() for a in n.addresses}
        host = self.hosts.get(nodes.get(address, ""))
        if host is None or not self._way("client", region, host.name, host.region).whole or not host.edge.up:
            return False
        chance, now = self.rng.random(), self.time.now

        def answers(address: str) -> bool:
            if not address.startswith("edge of "):
                return self._edge_answers(host, address)
            other = self.hosts[address.removeprefix("edge of ")]
            there = self._edge_answers(host, address)
            return there and other.edge.serve(
                hostname, now, chance, lambda a: self._edge_answers(other, a), passed=True
            )

        return host.edge.serve(hostname, now, chance, answers)
