"""A DNS server of the simulated fleet: the real brain, feed and table over a simulated network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fleet.clock import Clock
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, node_pb2
from routing.adapters.feed import Feed
from routing.adapters.table import RESOURCE_TYPES
from routing.core.failover import Event, Failover, FeedChanged, TableAccepted
from routing.core.model import RoutingTable, TargetKey
from tests.simulation.routing.probing import Server

DNS = node_pb2.NODE_ROLE_DNS


class NameServer(Server):
    """Its snapshot and its verdicts are on disk: they outlive it."""

    role = DNS
    types = tuple(RESOURCE_TYPES)

    def __init__(self, name: str, region: str, clock: Clock, handle: Callable[[Server, Event], None]):
        super().__init__(name, region, Failover(name, region))
        self.name = name
        self.snapshot = Snapshot()
        self.table: RoutingTable | None = None
        self.dead_until = 0.0
        self.remembered: dict[TargetKey, bool] = {}
        self.next_beat = 0.0
        self._clock, self._handle = clock, handle
        self.feed = self._feed()

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return not self.dead_until

    def crash(self, until: float) -> None:
        """It ends, and is started again then."""
        self.dead_until = until
        self.remembered = {key: state.verdict.in_rotation for key, state in self.brain.targets.items()}
        self.brain = Failover(self.name, self.region)

    def boot(self) -> None:
        """Serves what it accepted last."""
        self.dead_until = 0.0
        self.brain = Failover(self.name, self.region)
        self.feed = self._feed()
        if self.snapshot.revision:
            self.feed.accepted(self.snapshot)

    def accept(self, snapshot: Snapshot, now: float) -> None:
        """Takes what the control plane wants."""
        assert not self.feed.problems(snapshot), self.feed.problems(snapshot)
        self.snapshot = snapshot
        self.feed.accepted(snapshot)

    def hear_of_feed(self, alive: bool) -> None:
        """The stream stands or fell."""
        if alive != self.brain.feed_alive:
            self._handle(self, FeedChanged(alive))

    def heartbeat(self) -> agent_pb2.Heartbeat:
        """How fast its probes would prove a cut."""
        beat = agent_pb2.Heartbeat()
        beat.cut_proven_within.FromMilliseconds(round(1000 * self.brain.cut_proven_within_s))
        return beat

    def status(self, *, complete: bool) -> agent_pb2.Status | None:
        """What there is to say."""
        return self.feed.complete_status() if complete else self.feed.status_change()

    def _feed(self) -> Feed:
        return Feed(self.brain, self._clock, Path("/nowhere"), self._take)

    def _take(self, table: RoutingTable) -> None:
        self.table = table
        self._handle(self, TableAccepted(table, self.remembered))
