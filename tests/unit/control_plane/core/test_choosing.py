"""Which node a slot gets, by which reckoning, and why none; the same however often the plan was changed before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.choosing import Choice, Chooser
from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Affinity, Constraint, Placement
from control_plane.core.model import NOTHING, Condition, Demand, NodeView, Slot
from tests.unit.control_plane.core.fleet import node

MIB = 1 << 20
EU = Slot(0, "eu")


def choose(
    nodes: list[NodeView],
    placement: Placement = Placement(),  # noqa: B008
    *,
    slot: Slot = EU,
    same: dict[str, int] | None = None,
    ledger: Ledger | None = None,
    demand: Demand = NOTHING,
    prefer: str = "",
    avoid: str = "",
) -> Choice:
    chooser = Chooser(placement, nodes, ledger or Ledger(), same or {}, demand)
    return chooser.choose(slot, prefer=prefer, avoid=avoid)


def test_reasons_are_counted() -> None:
    nodes = [
        node("a", cordoned=True),
        node("b", condition=Condition.SUSPECT),
        node("c", labels={"disk": "hdd"}),
        node("d"),
        node("e", "us"),
        node("f", labels={"disk": "ssd"}, memory_bytes=256 * MIB),
        node("g", labels={"disk": "ssd"}, cpu_millis=100),
    ]
    placement = Placement(constraints=(Constraint("disk", ("ssd",)),))
    demand = Demand(cpu_millis=200, memory_bytes=512 * MIB)
    problem = choose(nodes, placement, demand=demand).problem
    assert problem.startswith("none of the 6 nodes in region eu can take it: ")
    for part in (
        "1 is cordoned",
        "1 is suspect",
        "2 does not match disk=ssd",
        "1 has less than 512 MiB of memory left",
        "1 has less than 200 thousandths of a processor left",
    ):
        assert part in problem
    assert "no node" in choose(nodes, slot=Slot(0, "ap")).problem
    assert "1 was lost with it" in choose([node("a")], avoid="a").problem


def test_known_labels_and_exclusion() -> None:
    nodes = [node("a", architecture="amd64", jurisdictions=("eu",)), node("b", architecture="arm64")]
    for constraint, expected in [
        (Constraint("architecture", ("arm64",)), "b"),
        (Constraint("architecture", ("arm64",), exclude=True), "a"),
        (Constraint("jurisdiction", ("eu", "ch")), "a"),
        (Constraint("node", ("b",)), "b"),
        (Constraint("jurisdiction"), "a"),
    ]:
        assert choose(nodes, Placement(constraints=(constraint,))).node == expected


def test_replicas_spread_then_stay_then_balance() -> None:
    nodes = [node("a"), node("b"), node("c")]
    assert choose(nodes, same={"a": 1}).node == "b"
    assert choose(nodes, ledger=Ledger({"a": 5}), prefer="a").node == "a"
    assert choose(nodes, ledger=Ledger({"a": 5, "b": 1})).node == "c"


def test_replicas_are_spread_over_a_label_first() -> None:
    nodes = [node("a", labels={"rack": "1"}), node("b", labels={"rack": "1"}), node("c", labels={"rack": "2"})]
    ledger = Ledger()
    chooser = Chooser(Placement(spread="rack"), nodes, ledger, {})
    chosen = []
    for ordinal in range(4):
        choice = chooser.choose(Slot(ordinal, "eu"))
        ledger.add(choice.node, "app", NOTHING)
        chooser.placed(choice.node)
        chosen.append(choice.node)
    assert chosen == ["a", "c", "b", "c"]


def test_affinity_draws_and_repels() -> None:
    nodes = [node("a"), node("b", labels={"disk": "ssd"}), node("c")]
    ledger = Ledger()
    ledger.add("a", "noisy", NOTHING)
    likes = Placement(affinities=(Affinity("disk", ("ssd",), weight=50),))
    assert choose(nodes, likes).node == "b"
    assert choose(nodes, likes, same={"b": 1}).node == "a", "half as strong as one replica more"
    strong = Placement(affinities=(Affinity("disk", weight=100), Affinity("disk", ("ssd",), weight=1)))
    assert choose(nodes, strong, same={"b": 1}).node == "b", "weights add up"
    repelled = Placement(affinities=(Affinity(app="noisy", weight=-10),))
    assert choose(nodes, repelled, ledger=ledger, prefer="a").node == "b"
    assert choose([node("a")], repelled, ledger=ledger).node == "a", "it is a wish, not a demand"


def test_what_is_asked_for_must_fit() -> None:
    small, large = node("a", memory_bytes=100 * MIB), node("b", memory_bytes=300 * MIB)
    demand = Demand(memory_bytes=100 * MIB)
    ledger = Ledger()
    chooser = Chooser(Placement(), [small, large], ledger, {}, demand)
    chosen = []
    for ordinal in range(5):
        choice = chooser.choose(Slot(ordinal, "eu"))
        chosen.append(choice.node)
        if choice.node:
            ledger.add(choice.node, "app", demand)
            chooser.placed(choice.node)
    assert chosen == ["a", "b", "b", "b", ""]
    assert choose([node("a")], demand=demand).node == "a", "nothing is refused for what is not known"
    stopping = Ledger()
    stopping.add("a", "other", Demand(memory_bytes=50 * MIB), counts=False)
    assert choose([small], ledger=stopping, demand=demand).node == "", "what stops takes room until it is gone"


def test_a_host_port_has_one_holder() -> None:
    ledger = Ledger()
    ledger.add("a", "other", Demand(host_ports=frozenset({9000})))
    demand = Demand(host_ports=frozenset({9000}))
    assert choose([node("a"), node("b")], ledger=ledger, demand=demand, prefer="a").node == "b"
    assert "1 has host port 9000 taken" in choose([node("a")], ledger=ledger, demand=demand).problem
    ledger.remove("a", "other", Demand(host_ports=frozenset({9000})))
    assert choose([node("a")], ledger=ledger, demand=demand).node == "a"


_NODES = st.lists(
    st.builds(
        lambda region, rack, disk, memory, cordoned: (region, rack, disk, memory, cordoned),
        st.sampled_from(["eu", "us"]),
        st.sampled_from(["1", "2"]),
        st.sampled_from(["", "ssd"]),
        st.sampled_from([0, 2, 5]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("choose"), st.sampled_from(["eu", "us"]), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.just(""), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("other"), st.just(""), st.integers(0, 7), st.just(0)),
    ),
    max_size=25,
)


@given(_NODES, _CHANGES, st.sampled_from(["", "rack"]), st.integers(-100, 100))
def test_a_changed_plan_equals_one_from_scratch(
    shapes: list[tuple[str, str, str, int, bool]], changes: list[tuple[str, str, int, int]], spread: str, weight: int
) -> None:
    nodes = [
        node(f"n{i}", region, labels={"rack": rack, "disk": disk}, memory_bytes=memory, cordoned=cordoned)
        for i, (region, rack, disk, memory, cordoned) in enumerate(shapes)
    ]
    wishes = (Affinity("disk", ("ssd",), weight=weight), Affinity(app="other", weight=-weight))
    placement = Placement(spread=spread, affinities=wishes)
    demand = Demand(memory_bytes=1)
    ledger, placed = Ledger(), []
    chooser = Chooser(placement, nodes, ledger, {}, demand)
    for kind, region, first, second in changes:
        if kind == "choose":
            prefer, avoid = f"n{first}", f"n{second}"
            slot = Slot(0, region)
            chosen = chooser.choose(slot, prefer=prefer, avoid=avoid)
            fresh = Chooser(placement, list(reversed(nodes)), ledger, Counter(placed), demand)
            assert chosen == fresh.choose(slot, prefer=prefer, avoid=avoid)
            inside = [n for n in nodes if n.region == region and n.id != avoid and not n.cordoned]
            fit = [n for n in inside if not ledger.lack(n, demand)]
            assert bool(chosen.node) == bool(fit)
            if chosen.node:
                least = min(fit, key=lambda n: (fresh.cost(n), n.id != prefer, fresh.rank(n)[1], n.id))
                assert chosen.node == least.id
                ledger.add(chosen.node, "app", demand)
                placed.append(chosen.node)
                chooser.placed(chosen.node)
        elif kind == "remove" and placed:
            gone = placed.pop(first % len(placed))
            ledger.remove(gone, "app", demand)
            chooser.removed(gone)
        elif kind == "other" and first < len(nodes):
            ledger.add(f"n{first}", "other", demand)
            chooser.touched(f"n{first}")
