"""Regions cut off in the lab, one after the other, while a client asks: until that is found out, until DNS answers
without them, until the client is served from elsewhere; beside Docker Swarm's rescheduling on the same hosts.

LOCCI_BENCH_ROUNDS (30) cuts of ours, of regions in turn; a tenth as many of the swarm's, which take their time.
Writes build/bench/failover.json.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from bench._harness import report, say
from bench._hosts import Hosts, Swarm, lab, measure
from fleet.errors import LocciError
from lab.drill import DrillPlan, run_drill
from lab.story import HOSTNAME, Story
from lab.timeline import DrillReport

ROUNDS: Final = int(os.environ.get("LOCCI_BENCH_ROUNDS", "30"))
HELD_BACK_S: Final = 300.0
STAGES: Final = ("detected", "withdrawn", "rerouted")


def ours(hosts: Hosts, rounds: int) -> dict[str, list[float]]:
    """Seconds from the cut to each stage, of each round."""
    story = Story(hosts.topology, hosts.layout)
    story.deploy()
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number in range(rounds):
        client = hosts.topology.clients[number % len(hosts.topology.clients)]
        measured = cut(DrillPlan(client.region, HOSTNAME, client), hosts, story)
        for stage in STAGES:
            seconds = getattr(measured, f"{stage}_s")
            if seconds is None:
                raise RuntimeError(f"{client.region} was cut off and never {stage}: {measured.to_text()}")
            found[stage].append(seconds)
        say(f"{client.region}: " + ", ".join(f"{stage} {found[stage][-1]:.2f} s" for stage in STAGES))
    return found


def cut(plan: DrillPlan, hosts: Hosts, story: Story) -> DrillReport:
    """One drill. A region that was cut off a moment ago is held back for a while: it is waited for."""
    end = time.monotonic() + HELD_BACK_S
    while True:
        try:
            return run_drill(plan, hosts.topology, hosts.layout, story.api)
        except LocciError as error:
            if error.reason != "NOT_SERVED" or time.monotonic() > end:
                raise
            say(f"{plan.region} is held back after its last cut")


def figure(name: str, mine: float, theirs: float) -> dict[str, Any]:
    """Ours beside the time until Docker Swarm runs all replicas again."""
    row = {"figure": name, "peer": "docker-swarm", "unit": "s", "ours": round(mine, 3), "theirs": round(theirs, 3)}
    return row | {"ratio": round(theirs / mine, 2)}


def at_p99(seconds: Sequence[float]) -> float:
    """The 99th percentile; the worst of fewer than a hundred."""
    return max(seconds) if len(seconds) < 100 else statistics.quantiles(seconds, n=100)[-1]


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    if os.geteuid() != 0:
        print("bench: needs root, for hosts in network namespaces", file=sys.stderr)
        return 3
    try:
        with lab("benchours", swarm=False) as hosts:
            found = ours(hosts, ROUNDS)
        with lab("benchswarm", swarm=True) as hosts:
            moved = measure(hosts, Swarm(hosts), max(3, ROUNDS // 10))["partition_rescheduled"]
    except LocciError as error:
        print(f"bench: {error.message}", file=sys.stderr)
        return 1
    figures = []
    for stage in STAGES:
        figures.append(figure(f"{stage}_p50", statistics.median(found[stage]), statistics.median(moved)))
        figures.append(figure(f"{stage}_p99", at_p99(found[stage]), at_p99(moved)))
    report("failover", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
