"""Many seeds of the simulated control plane. A failing seed is replayed with `-k seed-N`."""

from __future__ import annotations

import pytest

from tests.simulation.control_plane import Simulation
from tests.simulation.seeds import more_seeds

QUICK = 1000
SLICE_S = 10
LARGE = [0, 1, *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(2)[::100][:20])]
SEEDS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.drill) for n in more_seeds(QUICK))]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
async def test_safety_under_faults_and_convergence_after_them(seed: int) -> None:
    await play(Simulation(seed), faulty_s=60, quiet_s=90, watch_to_the_end=seed % 8 == 0)


@pytest.mark.parametrize("seed", LARGE, ids=lambda seed: f"large-{seed}-")
async def test_hundreds_of_agents(seed: int) -> None:
    await play(Simulation(seed, edges=80), faulty_s=60, quiet_s=150)


async def play(simulation: Simulation, *, faulty_s: int, quiet_s: int, watch_to_the_end: bool = True) -> None:
    """After its faults it settles and rests within `quiet_s`; whether it then stays at rest is watched on request."""
    await simulation.begin()
    await simulation.run(faulty_s)
    simulation.quiet = True
    for _ in range(0, quiet_s + SLICE_S, SLICE_S):
        revision = simulation.state.revision
        await simulation.run(SLICE_S)
        rests = simulation.state.revision == revision
        if rests and not simulation.unsettled() and not watch_to_the_end:
            break
    assert simulation.violations == []
    assert simulation.unsettled() == []
    assert rests, "it never rests"
