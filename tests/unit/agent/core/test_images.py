"""What going back needs stays; what nobody needs goes, sooner when the disk is full."""

from __future__ import annotations

from agent.core.images import UNUSED_S, removable

NOW_S = 1_000_000.0
OLD_S = NOW_S - UNUSED_S


def image(number: int, repository: str = "r.test/web") -> str:
    return f"{repository}@sha256:{number:064x}"


def known(count: int, last_s: float = OLD_S) -> dict[str, float]:
    """Images 0, 1, 2, …: the higher the number, the longer unwanted."""
    return {image(number): last_s - number for number in range(count)}


def test_the_last_few_of_a_repository_are_kept() -> None:
    assert removable(known(5), needed=(), pressed=False, now_s=NOW_S) == [image(4), image(3)]


def test_what_is_needed_stays_and_does_not_count() -> None:
    needed = {image(0), image(4)}
    assert removable(known(6), needed=needed, pressed=True, now_s=NOW_S) == [image(5), image(3), image(2)]


def test_what_was_wanted_lately_is_kept_while_there_is_space() -> None:
    lately = known(5, NOW_S - 60)
    assert removable(lately, needed=(), pressed=False, now_s=NOW_S) == []
    assert removable(lately, needed=(), pressed=True, now_s=NOW_S) == [image(4), image(3), image(2), image(1)]


def test_repositories_count_apart() -> None:
    mixed = known(3) | {image(n, "r.test/db"): OLD_S for n in range(3)}
    assert removable(mixed, needed=(), pressed=False, now_s=NOW_S) == []


def test_a_clock_that_jumped_back_removes_nothing() -> None:
    assert removable(known(9, NOW_S + 1e6), needed=(), pressed=False, now_s=NOW_S) == []
