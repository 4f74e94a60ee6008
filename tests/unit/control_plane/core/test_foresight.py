"""What a change comes to, in thought: the same end that the steps themselves lead to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.converge import Target
from control_plane.core.foresight import Outlook, balance, differences, settle
from control_plane.core.manifest import Placement
from control_plane.core.model import Condition, Demand, NodeView, Replica, Slot
from control_plane.core.placement import wanted_slots
from control_plane.core.preview import Change
from tests.unit.control_plane.core.fleet import Fleet, node, release


def stable(nodes: list[NodeView], placement: Placement, demand: Demand | None = None) -> Fleet:
    fleet = Fleet(nodes, placement)
    fleet.demand = demand or fleet.demand
    fleet.apply(release(1))
    fleet.advance(20)
    assert fleet.state.value == "succeeded"
    return fleet


def outlook(fleet: Fleet, nodes: dict[str, NodeView]) -> Outlook:
    regions = {n.region for n in nodes.values()}

    def wanted(replicas: Sequence[Replica]) -> tuple[Slot, ...]:
        return wanted_slots(fleet.placement, fleet.kind, regions, list(nodes.values()), replicas)

    assert fleet.target is not None
    view = replace(fleet.view(), nodes=nodes)
    view = replace(view, replicas=tuple(r for r in view.replicas if r.node in nodes))
    target = Target(fleet.target, None, fleet.placement, fleet.ledger(), fleet.demand)
    return settle(view, wanted, target, fleet.now)


def foreseen(fleet: Fleet, nodes: dict[str, NodeView]) -> list[Change]:
    return list(differences(outlook(fleet, fleet.nodes), outlook(fleet, nodes)))


def drained(fleet: Fleet, name: str) -> dict[str, NodeView]:
    off = replace(fleet.nodes[name], condition=Condition.DRAINING, cordoned=True, drain_until=math.inf)
    return {**fleet.nodes, name: off}


def ends(fleet: Fleet) -> list[tuple[int, str]]:
    return sorted((ordinal, on) for ordinal, _, on in fleet.live())


def test_a_drain_is_foreseen_as_it_then_happens() -> None:
    fleet = stable([node("a"), node("b"), node("c")], Placement(per_region=6, lost_after_s=30.0))
    changes = foreseen(fleet, drained(fleet, "a"))
    assert {(c.action, c.origin) for c in changes} == {("move", "a")}
    assert all("node a drains" in c.reason for c in changes)
    moved = {c.ordinal: c.node for c in changes}
    expected = sorted((ordinal, moved.get(ordinal, on)) for ordinal, on in ends(fleet))
    fleet.nodes = drained(fleet, "a")
    fleet.advance(30)
    assert ends(fleet) == expected


def test_what_finds_no_place_is_said_with_the_reason() -> None:
    fleet = stable([node("a"), node("b", cordoned=True)], Placement(per_region=2, lost_after_s=30.0))
    changes = foreseen(fleet, drained(fleet, "a"))
    assert [c.action for c in changes] == ["unplaceable", "unplaceable"]
    assert "1 is cordoned; 1 is draining" in changes[0].reason


def test_a_node_that_goes_takes_its_replicas_along_and_they_start_elsewhere() -> None:
    fleet = stable([node("a"), node("b")], Placement(per_region=2, lost_after_s=30.0))
    changes = foreseen(fleet, {"b": fleet.nodes["b"]})
    assert [(c.action, c.origin, c.node) for c in changes] == [("move", "a", "b")]


def test_a_cordon_moves_nothing() -> None:
    fleet = stable([node("a"), node("b")], Placement(per_region=2, lost_after_s=30.0))
    assert foreseen(fleet, {**fleet.nodes, "a": replace(fleet.nodes["a"], cordoned=True)}) == []


@pytest.mark.parametrize("singleton", [True, False])
def test_room_that_stopping_replicas_leave_is_used(singleton: bool) -> None:
    demand = Demand(cpu_millis=600)
    nodes = [node("a", cpu_millis=1000), node("b", cpu_millis=1000)]
    fleet = stable(nodes, Placement(total=1, lost_after_s=30.0, singleton=singleton), demand)
    [(_, on)] = ends(fleet)
    other = "b" if on == "a" else "a"
    changes = foreseen(fleet, drained(fleet, on))
    assert [(c.action, c.origin, c.node) for c in changes] == [("move", on, other)]


def test_a_balance_is_foreseen_as_it_then_happens() -> None:
    fleet = stable([node("a"), node("b")], Placement(per_region=6, lost_after_s=30.0))
    fleet.nodes["c"] = node("c")
    assert fleet.target is not None
    target = Target(fleet.target, None, fleet.placement, fleet.ledger(), fleet.demand)
    changes = balance(fleet.view(), target)
    assert len(changes) == 2
    assert {c.node for c in changes} == {"c"}
    fleet.rebalance_moves = 1
    fleet.advance(60)
    assert sorted(on for _, _, on in fleet.live()) == ["a"] * 2 + ["b"] * 2 + ["c"] * 2
    settled = Target(fleet.target, None, fleet.placement, fleet.ledger(), fleet.demand)
    assert balance(fleet.view(), settled) == []


@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 5))
def test_every_drain_is_foreseen(replicas: int, hosts: int, which: int) -> None:
    fleet = stable([node(f"n{i}") for i in range(hosts)], Placement(per_region=replicas, lost_after_s=30.0))
    name = f"n{which % hosts}"
    moved = {c.ordinal: c.node for c in foreseen(fleet, drained(fleet, name)) if c.action == "move"}
    expected = sorted((ordinal, moved.get(ordinal, on)) for ordinal, on in ends(fleet))
    fleet.nodes = drained(fleet, name)
    fleet.advance(40)
    assert ends(fleet) == expected
