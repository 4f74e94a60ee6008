"""A host of the simulated fleet: a real agent's machine, the faults that drills ask of it, an edge, and what it sees of
other edges."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent import decode, decode_faults
from agent.core.faults import Begin, End, Fault, Journal, Kind, Moment, Note, Skip, plan
from agent.core.messages import (
    Command,
    ContainerStarted,
    EdgeSeen,
    EdgeServing,
    PublishEdge,
    SnapshotAccepted,
    StartProbing,
)
from agent.core.policy import DEFAULT_POLICY
from agent.core.vantage import Neighbour, Sight, findings, watched
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, event_pb2, node_pb2
from tests.simulation.agent_host import AgentHost
from tests.simulation.control_plane import BROKEN
from tests.simulation.fleet.edge import Edge
from tests.simulation.fleet.network import Network

EDGE = node_pb2.NODE_ROLE_EDGE


class EdgeHost(AgentHost):
    """`wall` is the time that everybody agrees upon; `jump_s` is how far this host's own clock is off."""

    role = EDGE

    def __init__(self, name: str, region: str, rng: random.Random, network: Network, wall: Callable[[], float]):
        self.region = region
        self.types = decode.resource_types(DEFAULT_POLICY, supervised=False)
        self.jump_s = 0.0
        self.violations: list[str] = []
        self.edge = Edge()
        self.journal = Journal()
        self.boot_number = 1
        self.powered = True
        self.begun: list[str] = []
        self.sights: dict[str, Sight] = {}
        self.events: list[event_pb2.Event] = []
        self.on_hang_up: Callable[[], None] = lambda: None
        self._network, self._wall = network, wall
        self._wanted: list[Fault] = []
        super().__init__(name, rng)

    @property
    def up(self) -> bool:
        """Whether its agent runs."""
        return not self.dead_until

    def hang_up(self) -> None:
        self.on_hang_up()

    def boot(self, now: float) -> None:
        super().boot(now)
        if not self.powered:
            self.powered = True
            self.edge.restart()
        # What an agent that ended has left is undone before anything else.
        for active in self.journal.active:
            self._end(active.fault, now, "the agent was started anew")
        self.tell(EdgeSeen(self.edge.generation), now)
        self._tell_of_edge(now)

    def crash(self, now: float, *, host: bool) -> None:
        super().crash(now, host=host)
        self.sights = {}
        if host:
            self.boot_number += 1
            self.powered = self.edge.up = False
            self._network.mute.discard(self.name)
            self._network.deaf.discard(self.name)

    def accept(self, snapshot: Snapshot, now: float) -> None:
        """Takes what the control plane wants."""
        self.snapshot = snapshot
        self._wanted = decode_faults.wanted(snapshot, DEFAULT_POLICY)
        self.tell(SnapshotAccepted(decode.target(snapshot)), now)

    def carry_out(self, command: Command, now: float) -> None:
        match command:
            case PublishEdge(generation, view, _):
                super().carry_out(command, now)
                if self.edge.up:
                    self.edge.take(view, generation)
                    self._tell_of_edge(now + 0.01)
            case StartProbing(container_id) if self._is_broken(container_id):
                pass
            case _:
                super().carry_out(command, now)

    def happened(self, event: object) -> None:
        if isinstance(event, ContainerStarted):
            twins = [c.id for c in self.containers.values() if c.running and c.identity == event.container.identity]
            if [other for other in twins if other != event.container.id]:
                self.violations.append(f"{self.name} started {event.container.identity} beside {twins}")
        super().happened(event)  # type: ignore[arg-type]

    def kill_edge(self, now: float) -> None:
        """Its edge ends; init starts it again after a while."""
        self.edge.up = False
        self._tell_of_edge(now)

    def start_edge(self, now: float) -> None:
        """Its edge runs again, with what it served last, and is told what holds now."""
        self.edge.restart()
        if self.up and self.machine.generation > self.edge.generation:
            self.edge.take(self.machine.world.served, self.machine.generation)
        self._tell_of_edge(now)

    def run(self, now: float) -> None:
        super().run(now)
        if self.up:
            self._step_faults(now)

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Whom it looks at."""
        target = self.machine.world.target
        peers = (peer for route in (target.routes if target else ()) for peer in route.peers)
        return watched(self.name, self.region, (Neighbour(p.node, p.region, p.address) for p in peers))

    def evidence(self, now: float) -> agent_pb2.Evidence:
        """What it finds of others."""
        message = agent_pb2.Evidence(complete=True)
        for found in findings(self.sights, {}, now):
            row = message.results.add(endpoint=f"nodes/{found.node}", healthy=found.healthy, reason=found.reason)
            row.in_rotation = found.healthy
        return message

    def status(self, *, complete: bool) -> agent_pb2.Status | None:
        told, self.events = self.events, []
        found = super().status(complete=complete)
        if found is None and told:
            found = agent_pb2.Status()
        if found is not None:
            target = self.machine.world.target
            found.accepted_revision = target.revision if target else 0
            found.events.extend(told)
        return found

    def _is_broken(self, container_id: str) -> bool:
        container = self.machine.world.containers.get(container_id)
        replica = self.machine.world.replicas.get(container.identity) if container else None
        return replica is not None and BROKEN in dict(replica.env)

    def _tell_of_edge(self, at: float) -> None:
        if self.up:
            edges = 1 if self.edge.up else 0
            self.work.append((at, EdgeServing(edges, self.edge.generation if edges else 0)))

    # -- faults of drills

    def _step_faults(self, now: float) -> None:
        moment = Moment(f"boot-{self.boot_number}", self.local(now), self._wall() + self.jump_s)
        for step in plan(self._wanted, self.journal, moment):
            match step:
                case Note(accepted):
                    self.journal = self.journal.noted(accepted)
                case Begin(active):
                    self.journal = self.journal.begun(active)
                    if active.fault.name in self.begun:
                        self.violations.append(f"{self.name} began {active.fault.name} twice")
                    self.begun.append(active.fault.name)
                    self._break(active.fault.kind)
                    self._say("FaultBegan", active.fault, "it is in effect")
                case End(fault, reason):
                    self._end(fault, now, reason)
                case Skip(fault, reason):
                    self.journal = self.journal.closed(fault)
                    self._say("FaultSkipped", fault, reason)

    def _break(self, kind: Kind) -> None:
        if kind in (Kind.CUT, Kind.OUTBOUND_CUT):
            self._network.mute.add(self.name)
        if kind in (Kind.CUT, Kind.INBOUND_CUT):
            self._network.deaf.add(self.name)

    def _end(self, fault: Fault, now: float, reason: str) -> None:
        self._network.mute.discard(self.name)
        self._network.deaf.discard(self.name)
        self.journal = self.journal.closed(fault)
        self._say("FaultEnded", fault, reason)

    def _say(self, kind: str, fault: Fault, reason: str) -> None:
        drill, number, *_ = fault.name.removeprefix("faults/").split("/")
        event = event_pb2.Event(type=kind, subjects=[f"drills/{drill}/runs/{number}"], message=reason)
        event.details["resource"] = fault.name
        event.time.FromMilliseconds(int(1000 * (self._wall() + self.jump_s)))
        self.events.append(event)
