"""Upgrades of the fleet's agents, wave by wave, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.upgrade import (
    TERMINAL,
    Host,
    Plan,
    State,
    Upgrade,
    Wave,
    aborted,
    does_well,
    paused,
    resumed,
    step,
)

EU = ("eu-1", "eu-2", "eu-3")
US = ("us-1", "us-2")


class Fleet:
    """Hosts that take a version after some time, or never, or go back."""

    def __init__(self, plan: Plan, names: tuple[str, ...] = EU + US, *, takes_s: float = 10.0):
        self.upgrade = Upgrade(plan)
        self.now = 1000.0
        self.takes_s = takes_s
        self.hosts = {name: Host(name, name.partition("-")[0], "1", ready=True) for name in names}
        self.broken: set[str] = set()
        self.stuck: set[str] = set()
        self.story: list[tuple[str, ...]] = []

    def look(self, *, braked: bool = False) -> Upgrade:
        plan = self.upgrade.plan
        for name, told_at in self.upgrade.named.items():
            host = self.hosts.get(name)
            if host is None or name in self.stuck or self.now - told_at < self.takes_s:
                continue
            broken = name in self.broken
            failure = "it did not do as well as the version before" if broken else ""
            version = host.version if broken else plan.version
            self.hosts[name] = replace(host, version=version, failure=failure)
        before = self.upgrade
        self.upgrade = step(before, list(self.hosts.values()), self.now, braked=braked)
        fresh = tuple(sorted(self.upgrade.named.keys() - before.named.keys()))
        if fresh:
            self.story.append(fresh)
        return self.upgrade

    def later(self, seconds: float, every_s: float = 1.0) -> Fleet:
        for _ in range(int(seconds / every_s)):
            self.now += every_s
            self.look()
        return self


def plan(*waves: Wave, bake_s: float = 60.0, deadline_s: float = 300.0, failures_max: int = 0) -> Plan:
    return Plan("2", waves, bake_s, deadline_s, failures_max)


def region(*names: str) -> Wave:
    return Wave(regions=frozenset(names))


def test_one_node_then_region_after_region_each_watched() -> None:
    fleet = Fleet(plan())
    fleet.later(69)
    assert fleet.story == [("eu-1",)]
    assert "is watched for 60 s" in fleet.upgrade.reason
    fleet.later(400)
    assert fleet.story == [("eu-1",), ("eu-2", "eu-3"), US]
    assert fleet.upgrade.state is State.SUCCEEDED
    assert fleet.upgrade.reason == "5 nodes run 2"


def test_waves_by_share_number_and_region_and_whom_none_names_comes_last() -> None:
    fleet = Fleet(plan(Wave(percent=21), region("us"), Wave(nodes=1)))
    fleet.later(1000)
    assert fleet.story == [("eu-1", "eu-2"), US, ("eu-3",)]
    fleet = Fleet(plan(Wave(percent=10), Wave(percent=20), Wave(percent=60)))
    fleet.later(1000)
    # The second share is what the first wave reached already.
    assert fleet.story == [("eu-1",), ("eu-2", "eu-3"), US]


def test_a_node_that_goes_back_halts_it_and_nobody_follows() -> None:
    fleet = Fleet(plan())
    fleet.broken.add("eu-2")
    fleet.later(2000)
    assert fleet.upgrade.state is State.FAILED
    assert fleet.story == [("eu-1",), ("eu-2", "eu-3")]
    assert "node eu-2: it did not do as well" in fleet.upgrade.reason
    assert "3 nodes were told, no further one is" in fleet.upgrade.reason


def test_so_many_may_fail_as_are_allowed() -> None:
    fleet = Fleet(plan(failures_max=1))
    fleet.broken.add("eu-2")
    fleet.later(2000)
    assert fleet.upgrade.state is State.SUCCEEDED
    assert fleet.upgrade.reason == "4 nodes run 2; 1 failed"


def test_a_node_that_never_runs_it_ends_it_by_its_deadline_with_what_it_said_last() -> None:
    fleet = Fleet(plan(deadline_s=120.0))
    fleet.stuck.add("eu-1")
    fleet.hosts["eu-1"] = replace(fleet.hosts["eu-1"], progress="no space left on device")
    fleet.later(120)
    assert fleet.upgrade.state is State.RUNNING
    fleet.later(3)
    assert fleet.upgrade.state is State.FAILED
    assert "it ran 1 and not 2 (no space left on device) within 120 s" in fleet.upgrade.reason


def test_a_node_that_falls_out_while_it_is_watched_has_its_deadline_and_then_the_watch_begins_anew() -> None:
    fleet = Fleet(plan())
    fleet.later(60)
    fleet.hosts["eu-1"] = replace(fleet.hosts["eu-1"], ready=False)
    fleet.later(250)
    assert (fleet.story, fleet.upgrade.state) == ([("eu-1",)], State.RUNNING)
    fleet.hosts["eu-1"] = replace(fleet.hosts["eu-1"], ready=True)
    fleet.later(58)
    assert fleet.story == [("eu-1",)]
    fleet.later(5)
    assert len(fleet.story) == 2


def test_a_node_that_has_not_made_up_its_mind_is_waited_for() -> None:
    trying = Host("eu-1", "eu", "2", ready=True, trying=True)
    assert not does_well(trying, plan())
    assert does_well(replace(trying, trying=False), plan())


def test_nodes_that_are_away_or_cannot_be_told_are_passed_over() -> None:
    fleet = Fleet(plan())
    fleet.hosts["eu-3"] = replace(fleet.hosts["eu-3"], ready=False)
    fleet.hosts["us-2"] = replace(fleet.hosts["us-2"], follows=False)
    fleet.later(1000)
    assert fleet.story == [("eu-1",), ("eu-2",), ("us-1",)]
    assert fleet.upgrade.state is State.SUCCEEDED


def test_a_node_that_joins_on_the_way_comes_last_and_one_that_is_removed_is_not_waited_for() -> None:
    fleet = Fleet(plan())
    fleet.look()
    fleet.stuck.add("eu-1")
    fleet.hosts["eu-9"] = Host("eu-9", "ap", "1", ready=True)
    del fleet.hosts["eu-1"]
    fleet.later(1000)
    assert fleet.upgrade.state is State.SUCCEEDED
    assert fleet.hosts["eu-9"].version == "2"


def test_a_fleet_that_went_dark_is_not_judged() -> None:
    fleet = Fleet(plan(deadline_s=60.0))
    fleet.later(20)
    fleet.hosts["eu-1"] = replace(fleet.hosts["eu-1"], ready=False)
    for _ in range(500):
        fleet.now += 1.0
        before = fleet.upgrade
        assert fleet.look(braked=True) == before


def test_paused_it_names_and_judges_nobody_and_goes_on_with_new_deadlines() -> None:
    fleet = Fleet(plan())
    fleet.stuck.add("eu-1")
    fleet.later(200)
    fleet.upgrade = paused(fleet.upgrade, "operators/a")
    fleet.later(5000)
    assert fleet.upgrade.state is State.PAUSED
    fleet.upgrade = resumed(fleet.upgrade, fleet.now)
    fleet.later(250)
    assert fleet.upgrade.state is State.RUNNING
    fleet.stuck.clear()
    fleet.later(1000)
    assert fleet.upgrade.state is State.SUCCEEDED


def test_what_has_ended_stays_so() -> None:
    ended = aborted(Upgrade(plan()), "operators/a: the release is bad")
    assert ended.reason == "operators/a: the release is bad; 0 nodes were told, no further one is"
    assert step(ended, [Host("eu-1", "eu", "1", ready=True)], 1.0) == ended
    for change in (lambda: aborted(ended, ""), lambda: paused(ended, ""), lambda: resumed(ended, 0.0)):
        with pytest.raises(ValueError, match="aborted"):
            change()


@given(
    st.lists(st.sampled_from(["ok", "broken", "stuck"]), min_size=1, max_size=12),
    st.lists(
        st.one_of(
            st.integers(1, 100).map(lambda n: Wave(percent=n)),
            st.integers(1, 4).map(lambda n: Wave(nodes=n)),
            st.sampled_from([region("r0"), region("r1", "r2")]),
        ),
        max_size=4,
    ),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 11), st.booleans()), max_size=10),
)
def test_it_always_ends_and_never_names_more_than_it_may(
    kinds: list[str], waves: list[Wave], failures_max: int, blinks: list[tuple[int, int, bool]]
) -> None:
    names = tuple(f"r{n % 3}-{n}" for n in range(len(kinds)))
    fleet = Fleet(plan(*waves, bake_s=20.0, deadline_s=60.0, failures_max=failures_max), names)
    fleet.broken = {name for name, kind in zip(names, kinds, strict=True) if kind == "broken"}
    fleet.stuck = {name for name, kind in zip(names, kinds, strict=True) if kind == "stuck"}
    begun: dict[int, float] = {}
    for look in range(400):
        fleet.now += 5.0
        for when, which, ready in blinks:
            if when == look and which < len(names):
                fleet.hosts[names[which]] = replace(fleet.hosts[names[which]], ready=ready)
        before = fleet.upgrade
        after = fleet.look()
        assert before.named.items() <= after.named.items()
        assert before.failures.items() <= after.failures.items()
        assert before.state not in TERMINAL or after == before
        if after.waves_begun > before.waves_begun:
            begun[len(begun)] = fleet.now
            told = [h for h in fleet.hosts.values() if h.name in before.named and h.name not in after.failures]
            assert all(does_well(host, after.plan) for host in told)
            assert len(after.failures) <= failures_max
        if after.state is State.SUCCEEDED and before.state is State.RUNNING:
            # Whoever is away at this moment follows later, by its region.
            able = [h for h in fleet.hosts.values() if h.ready and h.name not in after.failures]
            assert all(does_well(host, after.plan) for host in able)
    assert fleet.upgrade.state in TERMINAL
    assert fleet.upgrade.reason
    assert all(later - sooner >= 20.0 for sooner, later in zip(begun.values(), list(begun.values())[1:], strict=False))
    if fleet.upgrade.state is State.FAILED:
        assert len(fleet.upgrade.failures) > failures_max
