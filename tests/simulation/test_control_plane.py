"""Many seeds of the simulated control plane. A failing seed is replayed with `-k seed-N`."""

from __future__ import annotations

import pytest

from tests.simulation.control_plane import Simulation
from tests.simulation.seeds import more_seeds

QUICK = 1000
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in range(QUICK, more_seeds()))]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
async def test_safety_under_faults_and_convergence_after_them(seed: int) -> None:
    simulation = Simulation(seed)
    await simulation.begin()
    await simulation.run(60)
    simulation.quiet = True
    await simulation.run(90)
    assert simulation.violations == []
    assert simulation.unsettled() == []
    revision = simulation.state.revision
    await simulation.run(10)
    assert simulation.state.revision == revision, "it never rests"
