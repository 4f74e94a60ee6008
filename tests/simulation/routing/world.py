"""DNS servers, edges and a control plane on a network in virtual time; a seed reproduces every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from agent.core.vantage import LOOK_INTERVAL_S, Sight
from routing.core.evidence import Target
from routing.core.failover import ChangeRotation, Command, Event, Failover, FeedChanged, ReportBrake, TableAccepted
from routing.core.model import Condition, ForeignEvidence, Hostname, Region, RoutingTable, TargetKey
from routing.core.steering import Client, decide
from tests.simulation.routing.probing import Path, Probing, Server, look
from tests.simulation.timeline import Timeline
from tests.unit.routing.tables import EVERYWHERE, regions

SUSPECT_AFTER_S = 2.5
FEED_DEAD_AFTER_S = 2.0
CONTROL = "control"
"""The control plane's own place on the network."""


class World:
    """Servers, edges and links. `cut` holds pairs of places that cannot reach each other."""

    def __init__(self, seed: int, *, loss: float = 0.0, edges: int = 1, dns_only: bool = False, vantages: bool = False):
        """With `vantages` the first edge of each region looks at those of the others."""
        self.rng = random.Random(seed)
        self.time = Timeline()
        self.loss = loss
        self.cut: set[frozenset[str]] = set()
        self.refusing: set[str] = set()
        self.deaf = False
        """The control plane hears no heartbeats, although the servers' feeds stand."""
        self.round_trip_s = {
            frozenset(("eu", "us")): 0.09,
            frozenset(("eu", "ap")): 0.22,
            frozenset(("us", "ap")): 0.16,
        }
        self.regions = regions(edges=edges)
        self.conditions = {edge.node: Condition.READY for r in self.regions.values() for edge in r.edges}
        self._unheard_since: dict[str, float] = {}
        self._probing = Probing(self.time, self.rng, self._path, self._execute, self._check_never_empty)
        nodes = {home: f"{home}-dns" if dns_only else f"{home}-1" for home in ("eu", "us")}
        self.servers = [Server(node, home, Failover(node, home)) for home, node in nodes.items()]
        self.sights: dict[tuple[str, str], Sight] = {}
        """By the edge that looks and the node that it looks at: what it sees."""
        self.told: dict[tuple[str, str], bool] = {}
        """What the control plane has heard of that."""
        self._answered_with: set[frozenset[TargetKey]] = set()
        """Rotations with which no client is left without an address."""
        self._start()
        for region in self.regions if vantages else ():
            for node in (edge.node for other in self.regions.values() if other.id != region for edge in other.edges):
                self.at(self.rng.random(), lambda region=region, node=node: self._look(region, node))  # type: ignore[misc]

    # What a test does

    @property
    def now(self) -> float:
        """Virtual time."""
        return self.time.now

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self.time.run(seconds)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Does something at a time."""
        self.time.at(time, action)

    def isolate(self, place: str) -> None:
        """Cuts every link of a region."""
        self.cut |= {frozenset((place, other)) for other in (*self.regions, CONTROL) if other != place}

    def heal(self) -> None:
        """Mends all links."""
        self.cut.clear()

    def reaches(self, one: str, other: str) -> bool:
        """Whether packets travel between two places."""
        return frozenset((one, other)) not in self.cut

    def server(self, region: str) -> Server:
        """The server in a region."""
        return next(server for server in self.servers if server.region == region)

    # The machinery

    def _start(self) -> None:
        table = RoutingTable(1, {}, self.regions, {})
        for server in self.servers:
            self._handle(server, TableAccepted(table))
            self._handle(server, FeedChanged(True))
        self.at(0.1, self._control)

    def _handle(self, server: Server, event: Event) -> None:
        self._probing.handle(server, event)

    def _execute(self, server: Server, command: Command) -> None:
        match command:
            case ChangeRotation(target, verdict):
                server.log.append((self.now, target.key, verdict))
                self._tell(server)
            case ReportBrake(_, state):
                server.brakes.append((self.now, state.applied))
            case _:
                self._tell(server)

    def _check_never_empty(self, server: Server) -> None:
        rotation = server.brain.rotation()
        if rotation in self._answered_with:
            return
        for family in {key[1] for key in server.brain.targets}:
            hostname = Hostname("h.example.net", replicas=EVERYWHERE)
            assert decide(hostname, self.regions, Client(), rotation, family).addresses
        self._answered_with.add(rotation)

    def _path(self, server: Server, target: Target) -> Path:
        return self._way(server.region, target.region, target.node)

    def _way(self, here: str, there: str, node: str) -> Path:
        round_trip_s = self.round_trip_s.get(frozenset((here, there)), 0.001)
        loss = 0.0 if here == there else self.loss
        return Path(self.reaches(here, there), round_trip_s, loss, node in self.refusing)

    # Edges as vantages: a look is eight overlapping probes, of which one good one is enough

    def _look(self, region: str, node: str) -> None:
        there = next(r.id for r in self.regions.values() for edge in r.edges if edge.node == node)
        path = self._way(region, there, node)
        takes_s, reason = look(path, self.sights.get((f"{region}-1", node), Sight()), self.rng)
        ended = self.now + takes_s
        self.at(ended, lambda: self._looked(region, node, reason, path.round_trip_s))
        self.at(max(ended, self.now + LOOK_INTERVAL_S), lambda: self._look(region, node))

    def _looked(self, region: str, node: str, reason: str, round_trip_s: float) -> None:
        key = f"{region}-1", node
        sight = self.sights[key] = self.sights.get(key, Sight()).looked(reason, self.now, round_trip_s)
        if not self.reaches(region, CONTROL) or sight.healthy is None:
            return
        if self.told.get(key) != sight.healthy:
            self.told[key] = sight.healthy
            self.at(self.now + self.rng.uniform(0.03, 0.15), self._publish)

    def _foreign(self, node: str) -> tuple[ForeignEvidence, ...]:
        """What the control plane passes on; a node that it does not hear is not looked at by edges any more."""
        said = [s.evidence[node] for s in self.servers if node in s.evidence]
        if self.conditions[node] is Condition.READY:
            mine = ((vantage, ok) for (vantage, at), ok in sorted(self.told.items()) if at == node)
            said += [ForeignEvidence(vantage, ok, ok) for vantage, ok in mine]
        return tuple(said)

    # The control plane: hears heartbeats, passes evidence on

    def _control(self) -> None:
        at_rest = not (self.cut or self.deaf or self._unheard_since)
        changed = False if at_rest else self._listen()
        if changed:
            self._publish()
        self.at(self.now + 0.1, self._control)

    def _listen(self) -> bool:
        changed = False
        for region, nodes in {r.id: [e.node for e in r.edges] for r in self.regions.values()}.items():
            for node in nodes:
                changed |= self._hear(region, node)
        for server in self.servers:
            key, alive = f"feed of {server.node}", self.reaches(server.region, CONTROL)
            since = self._unheard_since.setdefault(key, self.now) if not alive else self._unheard_since.pop(key, None)
            dead = not alive and since is not None and self.now - since >= FEED_DEAD_AFTER_S
            if server.brain.feed_alive == dead:
                self._handle(server, FeedChanged(not dead))
                changed = True
        return changed

    def _hear(self, region: str, node: str) -> bool:
        if self.reaches(region, CONTROL) and not self.deaf:
            self._unheard_since.pop(node, None)
            condition = Condition.READY
        else:
            since = self._unheard_since.setdefault(node, self.now)
            late = self.now - since >= SUSPECT_AFTER_S
            condition = Condition.SUSPECT if late else self.conditions[node]
        before, self.conditions[node] = self.conditions[node], condition
        return before is not condition

    def _tell(self, server: Server) -> None:
        """Evidence to the control plane, and from there to everyone."""
        if not self.reaches(server.region, CONTROL):
            return
        server.evidence = {
            node: ForeignEvidence(server.node, not state.probed.suspect, state.verdict.in_rotation)
            for (node, _), state in server.brain.targets.items()
            if state.probed.proven
        }
        self.at(self.now + self.rng.uniform(0.03, 0.15), self._publish)

    def _publish(self) -> None:
        def told(region: Region) -> Region:
            edges = tuple(
                replace(
                    edge,
                    condition=self.conditions[edge.node],
                    evidence=self._foreign(edge.node),
                )
                for edge in region.edges
            )
            return replace(region, edges=edges)

        table = RoutingTable(1, {}, {name: told(region) for name, region in self.regions.items()}, {})
        for server in self.servers:
            if self.reaches(server.region, CONTROL):
                self._handle(server, TableAccepted(table))
