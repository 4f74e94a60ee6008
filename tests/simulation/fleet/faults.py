"""Faults of all kinds, one upon the other, and their end."""

from __future__ import annotations

from tests.simulation.fleet.network import CONTROL
from tests.simulation.fleet.world import PLACES, TICK_S, Fleet

_BETWEEN_S = (0.5, 8.0)


async def disturb_for(fleet: Fleet, seconds: float) -> None:
    """Lets time pass, with a fault every few seconds."""
    end = fleet.time.now + seconds
    while fleet.time.now < end:
        await _disturb(fleet)
        await fleet.play(min(fleet.rng.uniform(*_BETWEEN_S), max(TICK_S, end - fleet.time.now)))


async def _disturb(fleet: Fleet) -> None:
    rng, network, now = fleet.rng, fleet.network, fleet.time.now
    place = rng.choice(list(PLACES))
    host = fleet.hosts[rng.choice(sorted(fleet.hosts))]
    everyone = [*PLACES, CONTROL]
    match rng.randrange(16):
        case 0 | 1:
            network.isolate(place)
        case 2:
            one, other = rng.sample(everyone, 2)
            network.sever(one, [other], one_way=rng.random() < 0.5)
        case 3:
            network.sever(place, [other for other in everyone if other != place], one_way=True)
        case 4:
            network.loss = rng.choice((0.0, 0.02, 0.1))
        case 5:
            network.slow_s[host.name] = rng.choice((0.0, 0.3, 2.0))
        case 6:
            host.kill_edge(now)
            fleet.time.at(now + rng.uniform(0.2, 10), lambda: _start_edge(fleet, host.name))
        case 7:
            host.crash(now, host=False)
        case 8:
            power_off(fleet, host.name)
        case 9:
            server = rng.choice(fleet.servers)
            server.crash(now + rng.uniform(0, 5))
        case 10 if fleet.control_plane_up and not fleet.store.broken:
            fleet.down_until = now + rng.uniform(0, 8)
            await fleet._boot()
        case 11:
            fleet.disk_full_until = now + rng.uniform(0, 6)
        case 12 if fleet.control_plane_up and not fleet.store.broken:
            await fleet.apply(rng.choice(("one", "two")), broken=rng.random() < 0.3)
        case 13:
            flap(fleet, place)
        case 14:
            jumped_s = rng.choice((-3600.0, -1.0, 0.0, 1.0, 600.0))
            if rng.random() < 0.3:
                fleet.clock.jump_s = jumped_s
            else:
                host.jump_s = jumped_s
        case _:
            network.heal()
            if fleet.control_plane_up and not fleet.store.broken:
                await fleet.drill(rng.choice(("eu", "ap")))


def flap(fleet: Fleet, place: str) -> None:
    """A region's ways fall and rise some times."""
    now = fleet.time.now
    for number in range(fleet.rng.randint(2, 4)):
        fleet.time.at(now + 6 * number, lambda: fleet.network.isolate(place))
        fleet.time.at(now + 6 * number + fleet.rng.uniform(1, 4), fleet.network.heal)


def power_off(fleet: Fleet, name: str) -> None:
    """A host loses its power for a while, with everything on it."""
    host = fleet.hosts[name]
    host.crash(fleet.time.now, host=True)
    for server in fleet.servers:
        if server.name == name:
            server.crash(host.dead_until)


def _start_edge(fleet: Fleet, name: str) -> None:
    if fleet.hosts[name].powered:
        fleet.hosts[name].start_edge(fleet.time.now)


async def calm(fleet: Fleet) -> None:
    """Every fault ends; those of drills by themselves, hosts that are off come back in their time."""
    fleet.quiet = True
    # What flaps goes on for some seconds more.
    await fleet.play(25)
    fleet.network.heal()
    fleet.disk_full_until = fleet.clock.jump_s = 0.0
    for host in fleet.hosts.values():
        host.jump_s = 0.0
    # What was said on a slow way is still under way.
    await fleet.play(5)
