"""Faults of all kinds, one upon the other, from a seed: what DNS servers promise must hold whatever happens.

Clients are always answered with something; an edge that no server can reach is out within the bound, but where the
brake is on; it returns only after what the damping promises; after healing everything returns.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from routing.core.model import Family, Hostname, Policy, TargetKey
from routing.core.steering import SLOTS, Client, Outcome, decide
from routing.core.verdict import Rule
from tests.simulation.routing.probing import Server
from tests.simulation.routing.world import CONTROL, World
from tests.simulation.seeds import more_seeds
from tests.unit.routing.tables import EVERYWHERE

V4 = Family.IPV4
QUICK = 60
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(QUICK))]
STEP_S = 0.25
FAULTS_S = 90.0
HEALED_S = 140.0
"""All is back by then at the latest: the longest hold of the damping, and some probes."""
DEAD_BOUND_S = 2.15 + 5.0 + 3.0 + STEP_S
"""The proof of a cut, the wait for others who last found the edge in order, the patience of the brake, one look."""
FAILURES = (Rule.OWN_PROBES, Rule.PARTIAL, Rule.CORROBORATED)
HOSTNAMES = (
    Hostname("near", replicas=EVERYWHERE),
    Hostname("all", policy=Policy.ALL, replicas=EVERYWHERE),
    Hostname("first", policy=Policy.FAILOVER, order=("us", "eu"), replicas=EVERYWHERE),
    Hostname("drawn", policy=Policy.WEIGHTED, weights=(("eu", 3), ("us", 0)), replicas=EVERYWHERE),
    Hostname("law", jurisdictions=("eu",), replicas=EVERYWHERE),
    Hostname("empty", replicas=(("eu", 0), ("us", 0))),
)


class Watch:
    """What must hold at every look, and how long each edge has been dead for everyone."""

    def __init__(self, world: World):
        self.world = world
        self.dead_since: dict[tuple[str, TargetKey], float] = {}

    def look(self) -> None:
        """Checks every server, and one client that is drawn."""
        for server in self.world.servers:
            self._look_at_the_dead(server)
            self._ask(server)

    def _is_dead(self, region: str, node: str) -> bool:
        if node in self.world.refusing:
            return True
        return not any(self.world.reaches(server.region, region) for server in self.world.servers)

    def _look_at_the_dead(self, server: Server) -> None:
        for key, state in server.brain.targets.items():
            mark = (server.node, key)
            if not self._is_dead(state.target.region, key[0]) or server.brain.brake(key[1]).applied:
                self.dead_since.pop(mark, None)
                continue
            dead_s = self.world.now - self.dead_since.setdefault(mark, self.world.now)
            assert not state.verdict.in_rotation or dead_s <= DEAD_BOUND_S, (server.node, key, dead_s, state)

    def _ask(self, server: Server) -> None:
        rng, regions = self.world.rng, list(self.world.regions)
        hostname = rng.choice(HOSTNAMES)
        order = tuple(rng.sample(regions, len(regions))) if rng.random() < 0.8 else None
        client = Client(order, slot=rng.randrange(SLOTS))
        made = decide(hostname, self.world.regions, client, server.brain.rotation(), V4)
        assert made.addresses, (hostname, client, made)
        assert made.outcome is not Outcome.FAIL_CLOSED
        if hostname.jurisdictions:
            assert made.regions == ("eu",)


def disturb(world: World) -> None:
    """One more fault, or the end of one."""
    rng = world.rng
    places = [*world.regions, CONTROL]
    match rng.randrange(8):
        case 0 | 1:
            world.isolate(rng.choice(list(world.regions)))
        case 2:
            world.cut.add(frozenset(rng.sample(places, 2)))
        case 3:
            world.refusing ^= {f"{rng.choice(list(world.regions))}-{rng.randint(1, 2)}"}
        case 4:
            world.loss = rng.choice((0.0, 0.02, 0.1))
        case 5:
            world.deaf = not world.deaf
        case _:
            world.heal()


def check_damping(server: Server) -> None:
    """Each return comes after a hold that doubled with every withdrawal of the ten minutes before."""
    policy = server.brain.policy
    for key in server.brain.targets:
        held: list[float] = []
        log = [(time, verdict) for time, logged, verdict in server.log if logged == key]
        for time, verdict in log:
            held = [t for t in held if time - t < policy.memory_s]
            if verdict.rule in FAILURES:
                held.append(time)
            elif verdict.rule is Rule.BRAKE:
                held = held[:-1]
            elif verdict.rule is Rule.RECOVERED and held:
                promised_s = min(policy.hold_max_s, policy.hold_s * 2.0 ** (len(held) - 1))
                assert time - held[-1] >= promised_s - 1e-6, (key, time, held, verdict)
        assert all(before[1].in_rotation != after[1].in_rotation for before, after in pairwise(log))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
def test_promises_hold_under_mixed_faults(seed: int) -> None:
    world = World(seed, edges=2, dns_only=seed % 2 == 0, vantages=seed % 4 < 2)
    watch = Watch(world)
    world.run(5)
    next_at = world.now
    while world.now < FAULTS_S:
        if world.now >= next_at:
            disturb(world)
            next_at = world.now + world.rng.uniform(1, 20)
        world.run(STEP_S)
        watch.look()
    world.heal()
    world.refusing.clear()
    world.loss, world.deaf = 0.0, False
    until = world.now + HEALED_S
    while world.now < until and not all(is_whole(server) for server in world.servers):
        world.run(1.0)
    for server in world.servers:
        assert is_whole(server), server
        check_damping(server)


def is_whole(server: Server) -> bool:
    """Whether everything is in rotation, and no brake on."""
    return server.brain.rotation() == frozenset(server.brain.targets) and not server.brain.brake(V4).applied


@pytest.mark.drill
@pytest.mark.parametrize("seed", more_seeds(6)[::100], ids=lambda seed: f"seed-{seed}-")
def test_an_hour_of_loss_withdraws_nothing_from_many_seeds(seed: int) -> None:
    world = World(seed, loss=0.1, edges=1 + seed % 2, dns_only=seed % 3 == 0, vantages=seed % 2 == 0)
    world.run(3600)
    assert [server.log for server in world.servers] == [[], []]
