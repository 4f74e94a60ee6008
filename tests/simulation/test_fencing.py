"""Never two holders of a singleton. A failing seed is replayed with `-k seed-N`."""

from __future__ import annotations

import pytest

from tests.simulation.fencing import FencingSimulation
from tests.simulation.seeds import more_seeds

QUICK = 200
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(QUICK))]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
async def test_a_singleton_never_runs_twice_and_runs_again_after_the_faults(seed: int) -> None:
    simulation = FencingSimulation(seed)
    await simulation.begin()
    await simulation.run(120)
    simulation.quiet = True
    simulation.disk_full_until = simulation.down_until = 0.0
    simulation.store.broken = False
    for host in simulation.hosts.values():
        host.cut_until = host.slow_s = 0.0
    await simulation.undrain()
    await simulation.run(90)
    assert simulation.violations == []
    assert simulation.out_of_order() == []


async def test_singletons_do_change_hands_in_these_runs() -> None:
    handovers = 0
    for seed in range(5):
        simulation = FencingSimulation(1_000 + seed)
        await simulation.begin()
        await simulation.run(120)
        handovers += simulation.handovers
    assert handovers >= 5
