"""Where images are pulled from, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.mirrors import MIRRORS_MAX, Mirrors, combined, host_of
from agent.core.model import PullFailure

IMAGE = "registry.example/team/web@sha256:" + "0" * 64
REST = IMAGE.partition("/")[2]


def at(host: str) -> str:
    return f"{host}/{REST}"


def test_mirrors_come_first_and_those_that_were_away_last() -> None:
    mirrors = Mirrors()
    names = [at("a"), at("b")]
    assert mirrors.sources(IMAGE, names, 0.0) == [at("a"), at("b"), IMAGE]
    assert not mirrors.failed("a", PullFailure.NOT_FOUND, 0.0), "it lacks this image only"
    assert mirrors.failed("a", PullFailure.UNREACHABLE, 0.0)
    assert mirrors.sources(IMAGE, names, 29.0) == [at("b"), IMAGE, at("a")]
    assert mirrors.sources(IMAGE, names, 30.0) == [at("a"), at("b"), IMAGE]
    assert not mirrors.failed("a", PullFailure.TIMED_OUT, 30.0), "that it is away was told already"
    assert mirrors.sources(IMAGE, names, 89.0) == [at("b"), IMAGE, at("a")], "it rests longer each time"
    mirrors.answered("a")
    assert mirrors.sources(IMAGE, names, 89.0) == [at("a"), at("b"), IMAGE]


def test_a_host_knows_its_own_mirrors_and_its_policy_judges_the_others() -> None:
    own, told = {"registry.example": ["near"]}, {"registry.example": ["far", "near", "bad"], "other.example": ["x"]}
    assert combined(IMAGE, own, told, lambda name: host_of(name) != "bad") == [at("near"), at("far")]
    assert combined(IMAGE, {}, {"registry.example": ["registry.example"]}, lambda name: True) == []


@given(
    st.lists(st.sampled_from("abcdefghijkl"), max_size=12),
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(PullFailure), st.floats(0, 1000)), max_size=30),
    st.floats(0, 2000),
)
def test_every_source_is_asked_once_whatever_failed(
    hosts: list[str], failures: list[tuple[str, PullFailure, float]], now: float
) -> None:
    mirrors = Mirrors()
    for host, failure, moment in failures:
        mirrors.failed(host, failure, moment)
    names = combined(IMAGE, {}, {"registry.example": hosts}, lambda name: True)
    assert len(names) == min(MIRRORS_MAX, len(set(hosts)))
    assert sorted(mirrors.sources(IMAGE, names, now)) == sorted([IMAGE, *names])
