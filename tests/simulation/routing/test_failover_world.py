"""The brains of several DNS servers over a network that loses, cuts and mends: what must hold for every seed."""

from __future__ import annotations

import statistics

import pytest

from routing.core.model import Condition, Family
from routing.core.verdict import Rule
from tests.simulation.routing.probing import Server
from tests.simulation.routing.world import CONTROL, World
from tests.simulation.seeds import more_seeds

V4 = Family.IPV4


def withdrawn(server: Server, after: float = 0.0) -> dict[str, float]:
    """When each node went out of rotation first after a time."""
    found: dict[str, float] = {}
    for time, (node, _), verdict in server.log:
        if time >= after and not verdict.in_rotation:
            found.setdefault(node, time)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_an_hour_of_loss_withdraws_nothing(seed: int) -> None:
    """10 % of packets are lost in each direction; with seeds 0 to 2 the control plane is gone as well, with seed 5
    edges look at each other, too."""
    world = World(seed, loss=0.1, vantages=seed == 5)
    if seed < 3:
        world.cut |= {frozenset((region, CONTROL)) for region in world.regions}
    world.run(3600)
    assert [server.log for server in world.servers] == [[], []]


CUTS = [*range(150), *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(150))]


@pytest.mark.parametrize("seed", CUTS, ids=lambda seed: f"seed-{seed}-")
def test_a_cut_region_is_withdrawn_within_the_bound(seed: int) -> None:
    """From the cut to the last of the others' decisions, never later than what `locci routing show` names at that time;
    the server in the cut region withdraws nothing."""
    world = World(seed, loss=0.02 if seed % 3 == 0 else 0.0, dns_only=seed % 2 == 0, vantages=seed % 4 < 2)
    region = ("eu", "us", "ap")[seed // 3 % 3]
    world.run(20 + 5 * world.rng.random())
    cut_at, bound_s = world.now, max(server.brain.cut_proven_within_s for server in world.servers)
    assert 2.15 <= bound_s <= (2.5 if not world.loss else 4.0)
    world.isolate(region)
    world.run(10)
    for server in world.servers:
        if server.region == region:
            assert withdrawn(server) == {}
        else:
            assert set(withdrawn(server)) == {f"{region}-1"}
            assert withdrawn(server)[f"{region}-1"] - cut_at <= bound_s


def test_most_cuts_are_withdrawn_sooner() -> None:
    times = []
    for seed in range(60):
        world = World(seed, dns_only=seed % 2 == 0, vantages=seed % 4 < 2)
        world.run(20 + world.rng.random())
        cut_at = world.now
        world.isolate("ap")
        world.run(10)
        times += [withdrawn(server)["ap-1"] - cut_at for server in world.servers]
    assert statistics.median(times) < 1.6
    assert max(times) < 2.5


@pytest.mark.parametrize("seed", range(20))
def test_all_return_after_healing(seed: int) -> None:
    world = World(seed, edges=2)
    world.run(10)
    for region in ("ap", "us"):
        world.isolate(region)
        world.run(world.rng.uniform(1, 20))
    world.heal()
    world.run(30)
    for server in world.servers:
        assert server.brain.rotation() == frozenset(server.brain.targets), seed
        assert not server.brain.brake(V4).applied


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_cut_off_keeps_the_last_answers(seed: int) -> None:
    """Cut off for a minute: the brake holds, nothing is withdrawn, and it lets go when the network is back."""
    world = World(seed, edges=1 + seed % 2)
    world.run(10 + world.rng.random())
    world.isolate("eu")
    world.run(60)
    server = world.server("eu")
    assert server.brain.rotation() == frozenset(server.brain.targets)
    assert server.brain.brake(V4).applied
    world.heal()
    world.run(10)
    assert not server.brain.brake(V4).applied
    assert [applied for _, applied in server.brakes] == [True, False]


@pytest.mark.parametrize("seed", range(10))
def test_with_a_dead_control_plane_own_probes_decide(seed: int) -> None:
    world = World(seed)
    world.cut |= {frozenset((region, CONTROL)) for region in world.regions}
    world.run(10 + world.rng.random())
    cut_at = world.now
    world.isolate("ap")
    world.run(10)
    for server in world.servers:
        assert withdrawn(server)["ap-1"] - cut_at < 2.8
        assert server.log[-1][2].rule is Rule.OWN_PROBES


@pytest.mark.parametrize("seed", range(10))
def test_the_control_plane_alone_withdraws_nothing(seed: int) -> None:
    """It hears no heartbeat of any edge and says so; the servers see for themselves."""
    world = World(seed)
    world.run(5)
    world.deaf = True
    world.run(120)
    assert set(world.conditions.values()) == {Condition.SUSPECT}
    assert [server.log for server in world.servers] == [[], []]


@pytest.mark.parametrize("seed", range(10))
def test_a_partial_failure_waits_for_the_others(seed: int) -> None:
    """Only one server loses sight of a region that the other still sees: it waits, and the other does not follow."""
    world = World(seed)
    world.run(10 + world.rng.random())
    cut_at = world.now
    world.cut.add(frozenset(("us", "ap")))
    world.run(15)
    assert withdrawn(world.server("us"))["ap-1"] - cut_at >= 5.0
    assert world.server("us").log[0][2].rule is Rule.PARTIAL
    assert world.server("eu").log == []


@pytest.mark.parametrize("seed", range(10))
def test_edges_show_that_a_failure_is_only_this_servers(seed: int) -> None:
    """The only DNS server loses sight of a region; another region's edge sees it, and says so."""
    world = World(seed, vantages=True)
    world.servers = [world.server("us")]
    world.run(10 + world.rng.random())
    cut_at = world.now
    world.cut.add(frozenset(("us", "ap")))
    world.run(15)
    server = world.server("us")
    assert withdrawn(server)["ap-1"] - cut_at >= 5.0
    assert [verdict.rule for _, _, verdict in server.log] == [Rule.PARTIAL]


@pytest.mark.parametrize("seed", range(10))
def test_edges_agree_when_a_region_is_gone(seed: int) -> None:
    """One DNS server, and the other region's edge finds the same: no waiting for the brake or for a doubt."""
    world = World(seed, vantages=True)
    world.servers = [world.server("us")]
    world.run(10 + world.rng.random())
    cut_at = world.now
    world.isolate("ap")
    world.run(10)
    assert withdrawn(world.server("us"))["ap-1"] - cut_at < 2.5
    assert set(withdrawn(world.server("us"))) == {"ap-1"}


@pytest.mark.parametrize("seed", range(10))
def test_a_flapping_region_is_damped(seed: int) -> None:
    """Ten minutes of a link that is down for 4 s and up for 8 s: without damping it would be 50 changes each way."""
    world = World(seed)
    world.run(5)
    for number in range(50):
        world.at(world.now + 12 * number, lambda: world.isolate("ap"))
        world.at(world.now + 12 * number + 4, world.heal)
    world.run(600)
    for server in world.servers:
        assert 1 <= len(withdrawn(server)) <= 1
        assert len(server.log) <= 7
    world.run(300)
    for server in world.servers:
        assert server.brain.rotation() == frozenset(server.brain.targets)


@pytest.mark.parametrize("seed", range(10))
def test_a_refusing_edge_is_withdrawn_alone(seed: int) -> None:
    world = World(seed, edges=2, loss=0.01)
    world.run(10 + world.rng.random())
    world.refusing.add("eu-2")
    world.run(5)
    for server in world.servers:
        assert set(withdrawn(server)) == {"eu-2"}
    world.refusing.clear()
    world.run(10)
    for server in world.servers:
        assert server.brain.rotation() == frozenset(server.brain.targets)
