"""Which containers are ended because the engine no longer knows of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.orphans import Keeper, plan

A, B = Keeper(10, "1", "a"), Keeper(20, "2", "b")


def test_what_is_listed_is_left_alone() -> None:
    steps = plan([A, B], made={"a", "b"}, listed={"a", "b"}, suspects={A, B})
    assert (steps.end, steps.suspects, steps.gone) == ((), frozenset(), frozenset())


def test_what_is_not_listed_is_ended_at_the_second_look() -> None:
    first = plan([A, B], made={"a", "b"}, listed={"b"}, suspects=())
    assert (first.end, first.suspects) == ((), {A})
    second = plan([A, B], made={"a", "b"}, listed={"b"}, suspects=first.suspects)
    assert (second.end, second.suspects, second.gone) == ((A,), frozenset(), frozenset())


def test_one_that_was_just_ending_is_forgotten() -> None:
    steps = plan([], made={"a"}, listed=(), suspects={A})
    assert (steps.end, steps.gone) == ((), {"a"})


def test_another_process_with_the_number_of_a_suspect_is_looked_at_anew() -> None:
    steps = plan([Keeper(10, "9", "a")], made={"a"}, listed=(), suspects={A})
    assert (steps.end, steps.suspects) == ((), {Keeper(10, "9", "a")})


_IDS = st.frozensets(st.sampled_from("abcdef"))


@given(_IDS, _IDS, _IDS, _IDS)
def test_only_what_was_made_here_and_is_not_listed_is_ever_ended(
    kept: frozenset[str], made: frozenset[str], listed: frozenset[str], suspected: frozenset[str]
) -> None:
    keepers = {i: Keeper(ord(i), "1", i) for i in kept | suspected}
    steps = plan(
        [keepers[i] for i in kept], made=made, listed=listed, suspects=frozenset(keepers[i] for i in suspected)
    )
    ended = {keeper.container_id for keeper in steps.end}
    assert ended == (kept & made & suspected) - listed
    assert not steps.gone & (listed | kept)
