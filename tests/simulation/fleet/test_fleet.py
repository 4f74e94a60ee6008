"""What a fleet promises whatever happens to it. A failing seed is replayed with `-k fleet-N`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane.drills import is_under_way
from routing.core.model import Family
from routing.core.steering import SLOTS, Client, decide, nearest_first
from tests.simulation.fleet.faults import calm, disturb_for
from tests.simulation.fleet.name_server import NameServer
from tests.simulation.fleet.world import PLACES, Fleet
from tests.simulation.seeds import more_seeds

V4 = Family.IPV4
QUICK = 16
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(QUICK))]
FAULTS_S = 60.0
CONVERGED_S = 300.0
"""After the last fault: the longest hold of the damping, a rollout's deadlines, and the recovery of a drill."""
HOSTNAMES = ("one.example.net", "two.example.net")


class Watch:
    """Asks every DNS server now and then, in the name of some client."""

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        self.known: set[tuple[str, str]] = set()

    def look(self) -> None:
        for server in self.fleet.servers:
            for hostname in HOSTNAMES:
                region = self.fleet.rng.choice(list(PLACES))
                self.ask(server, hostname, region)
        self.fleet.time.at(self.fleet.time.now + 0.5, self.look)

    def ask(self, server: NameServer, hostname: str, region: str) -> tuple[str, ...]:
        """The addresses for a client in a region. One that was answered once is never answered with nothing."""
        found = server.table.hostnames.get(hostname) if server.table is not None else None
        if not server.up or found is None or server.table is None:
            return ()
        order = nearest_first(*PLACES[region], server.table.regions)
        client = Client(order, slot=self.fleet.rng.randrange(SLOTS))
        made = decide(found, server.table.regions, client, server.brain.rotation(), V4)
        if made.addresses:
            self.known.add((server.name, hostname))
        elif (server.name, hostname) in self.known:
            self.fleet.violations.append(f"{server.name} answers {hostname} with nothing at {self.fleet.time.now:.2f}")
        return made.addresses


def unsettled(fleet: Fleet, watch: Watch) -> Iterator[str]:
    """What has not converged."""
    yield from fleet.unsettled()
    for node in fleet.state.nodes.values():
        if node.condition != 2:
            yield f"{node.name} is in condition {node.condition}"
    for host in fleet.hosts.values():
        held = {name for name in host.snapshot.resources if name.startswith("replicas/")}
        running = [c.resource for c in host.containers.values() if c.running]
        if sorted(held) != sorted(running):
            yield f"{host.name} runs {running} and holds {sorted(held)}"
        if host.journal.active:
            yield f"{host.name} is broken by {host.journal.active}"
        lost = [e.address for e in host.edge.endpoints.values() if e.ejections or e.unreachable]
        if lost:
            yield f"the edge of {host.name} does not ask {lost}"
    for server in fleet.servers:
        if server.brain.rotation() != frozenset(server.brain.targets) or server.brain.brake(V4).applied:
            yield f"{server.name} has {sorted(n for n, _ in server.brain.rotation())} in rotation"
    yield from (f"{row.name} goes on" for row in fleet.state.drill_runs.values() if is_under_way(row))
    for hostname in HOSTNAMES:
        for server in fleet.servers:
            for region in PLACES:
                addresses = watch.ask(server, hostname, region)
                if not addresses or not all(fleet.request(region, a, hostname) for a in addresses):
                    yield f"{hostname} is not served to {region} as {server.name} answers: {addresses}"


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"fleet-{seed}-")
async def test_a_fleet_keeps_its_promises_and_recovers(seed: int) -> None:
    fleet = Fleet(seed)
    fleet.quiet = True
    await fleet.begin()
    watch = Watch(fleet)
    await fleet.play(12)
    odd = list(unsettled(fleet, watch))
    assert odd == [], odd
    watch.look()
    if seed % 2:
        # All that follows befalls a drill that goes on, where it could begin.
        await fleet.drill("eu" if seed % 4 == 1 else "ap")
    fleet.quiet = False
    await disturb_for(fleet, FAULTS_S)
    await calm(fleet)
    end = fleet.time.now + CONVERGED_S
    while fleet.time.now < end and any(unsettled(fleet, watch)):
        await fleet.play(3)
    wrong = [*fleet.violations, *(v for host in fleet.hosts.values() for v in host.violations)]
    assert wrong == [], wrong
    odd = list(unsettled(fleet, watch))
    assert odd == [], odd
    revision = fleet.state.revision
    await fleet.play(5)
    assert fleet.state.revision == revision, "it never rests"
