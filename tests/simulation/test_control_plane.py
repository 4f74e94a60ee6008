"""Many seeds of the simulated control plane. A failing seed is replayed with `-k seed-N`."""

from __future__ import annotations

import pytest

from tests.simulation.control_plane import Simulation
from tests.simulation.seeds import more_seeds

QUICK = 1000
LARGE = [0, 1, *(pytest.param(n, marks=pytest.mark.drill) for n in range(2, 2 + min(20, more_seeds() // 100)))]
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in range(QUICK, more_seeds()))]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
async def test_safety_under_faults_and_convergence_after_them(seed: int) -> None:
    await play(Simulation(seed), faulty_s=60, quiet_s=90)


@pytest.mark.parametrize("seed", LARGE, ids=lambda seed: f"large-{seed}-")
async def test_hundreds_of_agents(seed: int) -> None:
    await play(Simulation(seed, edges=80), faulty_s=60, quiet_s=150)


async def play(simulation: Simulation, *, faulty_s: float, quiet_s: float) -> None:
    await simulation.begin()
    await simulation.run(faulty_s)
    simulation.quiet = True
    await simulation.run(quiet_s)
    assert simulation.violations == []
    assert simulation.unsettled() == []
    revision = simulation.state.revision
    await simulation.run(10)
    assert simulation.state.revision == revision, "it never rests"
