"""How many network namespaces are to be there, and which are left over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.sandboxes import Sandbox, plan


def box(name: str, running: bool = True) -> Sandbox:
    return Sandbox(name, running, "172.17.0.9" if running else "")


def test_a_pool_is_filled_up() -> None:
    steps = plan([box("a")], used=set(), held=set(), spent=set(), wanted=3)
    assert (steps.idle, steps.remove, steps.create) == ((box("a"),), (), 2)


def test_what_is_used_or_held_is_neither_given_out_nor_removed() -> None:
    steps = plan([box("a"), box("b"), box("c", running=False)], used={"a", "c"}, held={"b"}, spent={"a"}, wanted=1)
    assert (steps.idle, steps.remove, steps.create) == ((), (), 1)


def test_unused_ones_that_ended_or_are_too_many_go() -> None:
    steps = plan([box("a", running=False), box("b"), box("c")], used=set(), held=set(), spent=set(), wanted=1)
    assert (steps.idle, steps.remove, steps.create) == ((box("b"),), ("a", "c"), 0)


def test_one_that_was_used_is_not_given_to_another_replica() -> None:
    steps = plan([box("a"), box("b")], used=set(), held=set(), spent={"a"}, wanted=2)
    assert (steps.idle, steps.remove, steps.create) == ((box("b"),), ("a",), 1)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
    st.integers(0, 4),
)
def test_after_the_steps_there_is_nothing_left_to_do(
    found: dict[str, bool], used: set[str], held: set[str], wanted: int
) -> None:
    boxes = [box(name, running) for name, running in found.items()]
    steps = plan(boxes, used=used, held=held, spent=used, wanted=wanted)
    assert not set(steps.remove) & (used | held)
    after = [b for b in boxes if b.id not in steps.remove] + [box(f"new-{n}") for n in range(steps.create)]
    again = plan(after, used=used, held=held, spent=used, wanted=wanted)
    assert (len(again.idle), again.remove, again.create) == (wanted, (), 0)
