"""How long it takes to plan 10,000 replicas on 1,000 nodes: all of them from nothing, and again after one node is lost.

The planner is that of the control plane, on one processor. The first plan is held against a second; the plan after one
change, which looks at the apps that the change concerns, against planning every app anew, as a planner without memory
does. `look` is a whole look of the control plane at a fleet at rest, from its stored state to no step at all. Each
figure is the median of several turns. Writes build/bench/placement.json.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench._harness import report
from control_plane.apps import AppSteps
from control_plane.core.converge import Plan, Target, converge
from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Placement, RolloutPolicy
from control_plane.core.model import Condition, Demand, NodeView, ReleaseRef, Replica, StartReplica
from control_plane.core.placement import wanted_slots
from control_plane.core.rollout import AppView
from control_plane.observed import Observed
from control_plane.state import Batch, State
from control_plane.views import Manifests, Views
from locci.v1 import app_pb2, manifest_pb2, node_pb2, region_pb2, release_pb2, replica_pb2
from tests.fakes.store import MemoryStore

REGIONS: Final = 10
NODES: Final = 1_000
APPS: Final = 100
PER_REGION: Final = 10
TURNS: Final = 7
LIMIT_MS: Final = 1_000.0
NOW: Final = 1_000.0
DEMAND: Final = Demand(cpu_millis=500, memory_bytes=1 << 29)
POLICY: Final = RolloutPolicy(healthy_for_s=1.0, health_deadline_s=10.0, progress_deadline_s=60.0)
PLACEMENT: Final = Placement(per_region=PER_REGION, lost_after_s=30.0)
RELEASE: Final = ReleaseRef(1, "hash")

Held = dict[str, list[Replica]]


def fleet() -> dict[str, NodeView]:
    """The nodes, each with room for more than its share."""
    return {
        f"n{i:04}": NodeView(f"n{i:04}", f"r{i % REGIONS}", cpu_millis=16_000, memory_bytes=64 << 30)
        for i in range(NODES)
    }


def plan(app: str, held: Sequence[Replica], nodes: Mapping[str, NodeView], ledger: Ledger) -> Plan:
    """The next steps of one app."""
    regions = [f"r{i}" for i in range(REGIONS)]
    slots = wanted_slots(PLACEMENT, "service", regions, list(nodes.values()), held)
    view = AppView(app, POLICY, slots, tuple(held), nodes)
    return converge(view, Target(RELEASE, None, PLACEMENT, ledger, DEMAND), NOW)


def plan_all(held: Held, nodes: Mapping[str, NodeView]) -> dict[str, Plan]:
    """The next steps of every app, one ledger for all."""
    ledger = ledger_of(held)
    return {app: plan(app, replicas, nodes, ledger) for app, replicas in held.items()}


def ledger_of(held: Held) -> Ledger:
    """What nodes hold."""
    ledger = Ledger()
    for app, replicas in held.items():
        for replica in replicas:
            ledger.add(replica.node, app, DEMAND)
    return ledger


def started(plans: Mapping[str, Plan]) -> Held:
    """The replicas that plans start, healthy."""
    return {
        app: [
            Replica(s.ordinal, 1, RELEASE.spec_hash, s.region, s.node, 0.0, ready=True)
            for s in found.steps
            if isinstance(s, StartReplica)
        ]
        for app, found in plans.items()
    }


def median_ms(work: Callable[[], object]) -> float:
    """Milliseconds that something takes."""
    taken = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken)


async def stored(held: Held, nodes: Mapping[str, NodeView]) -> State:
    """The same fleet as a control plane stores it."""
    state = State(MemoryStore())

    def build(batch: Batch) -> None:
        for number in range(REGIONS):
            batch.put(state.regions, f"regions/r{number}", region_pb2.Region(name=f"regions/r{number}"))
        for node in nodes.values():
            row = node_pb2.Node(name=f"nodes/{node.id}", region=f"regions/{node.region}")
            row.roles.append(node_pb2.NODE_ROLE_EDGE)
            row.condition = node_pb2.NODE_CONDITION_READY
            batch.put(state.nodes, row.name, row)
        for app, replicas in held.items():
            manifest = manifest_pb2.AppManifest(name=app, image="registry.test/app@sha256:" + "0" * 64)
            manifest.placement.replicas_per_region = PER_REGION
            name = f"apps/{app}/releases/1"
            release = release_pb2.Release(name=name, number=1, manifest=manifest, spec_hash=RELEASE.spec_hash)
            batch.put(state.releases, name, release)
            batch.put(state.apps, f"apps/{app}", app_pb2.App(name=f"apps/{app}", target_release=name))
            for r in replicas:
                plain = f"apps/{app}/replicas/{r.ordinal}-1"
                assigned = replica_pb2.Replica(
                    name=plain, app=app, ordinal=r.ordinal, release=1, spec_hash=r.spec_hash, healthy=True
                )
                assigned.region, assigned.node = f"regions/{r.region}", f"nodes/{r.node}"
                batch.put(state.assignments, f"{plain}@{r.node}", assigned)

    await state.transact(build)
    return state


def look_ms(state: State) -> float:
    """A look of the control plane at a fleet at rest."""
    observed, manifests = Observed(0.0, NOW + 1e9), Manifests(state)
    steps = AppSteps(state, observed, manifests)

    def look() -> None:
        batch = Batch()
        steps.step(batch, Views(state, observed, manifests, NOW), NOW)
        assert not batch, "it is at rest"

    return median_ms(look)


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    nodes = fleet()
    nothing: Held = {f"a{i:03}": [] for i in range(APPS)}
    held = started(plan_all(nothing, nodes))
    assert sum(len(replicas) for replicas in held.values()) == REGIONS * PER_REGION * APPS
    lost = dict(nodes)
    lost["n0003"] = NodeView("n0003", "r3", Condition.LOST, silent_s=31.0, cpu_millis=16_000, memory_bytes=64 << 30)
    concerned = {app: replicas for app, replicas in held.items() if any(r.node == "n0003" for r in replicas)}

    def after_one_change() -> None:
        ledger = ledger_of(held)
        moved = [step for app, replicas in concerned.items() for step in plan(app, replicas, lost, ledger).steps]
        assert len(moved) == 2 * len(concerned), "each replica is displaced and started elsewhere, nothing else"

    full = median_ms(lambda: plan_all(nothing, nodes))
    changed = median_ms(after_one_change)
    naive = median_ms(lambda: plan_all(nothing, lost))
    look = look_ms(asyncio.run(stored(held, nodes)))
    report(
        "placement",
        [
            {"figure": name, "peer": peer, "unit": "ms", "ours": round(mine, 2), "theirs": round(theirs, 2)}
            | {"ratio": round(theirs / mine, 2)}
            for name, peer, mine, theirs in (
                ("plan_10k_on_1k", "a-second", full, LIMIT_MS),
                ("plan_after_one_change", "planning-anew", changed, naive),
                ("look_at_10k_at_rest", "a-second", look, LIMIT_MS),
            )
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
