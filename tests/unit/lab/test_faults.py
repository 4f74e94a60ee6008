from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lab.faults import Faults, Silence, drop_rules
from lab.topology import plan

TOPOLOGY = plan("lab", 3, 2)
HOSTS = st.lists(st.sampled_from(TOPOLOGY.hosts), min_size=1, max_size=3, unique=True)


@st.composite
def some_faults(draw: st.DrawFn) -> Faults:
    faults = Faults()
    for _ in range(draw(st.integers(0, 4))):
        match draw(st.integers(0, 2)):
            case 0:
                faults = faults.cut_off(draw(HOSTS))
            case 1:
                faults = faults.deafen(draw(HOSTS))
            case _:
                faults = faults.separate(draw(HOSTS), draw(HOSTS), one_way=draw(st.booleans()))
    return faults


def test_a_cut_between_two_is_heard_by_neither() -> None:
    eu, us = TOPOLOGY.host("eu-1"), TOPOLOGY.host("us-1")
    faults = Faults().separate([eu], [us], one_way=False)
    assert faults.silences == {Silence("us-1", "eu-1"), Silence("eu-1", "us-1")}
    assert drop_rules(faults, TOPOLOGY) == {"eu-1": us.addresses, "us-1": eu.addresses}


def test_one_way_the_target_is_still_heard() -> None:
    faults = Faults().separate([TOPOLOGY.host("eu-1")], [TOPOLOGY.host("us-1")], one_way=True)
    assert faults.describe() == ["eu-1 does not hear us-1"]


def test_the_deaf_hear_nobody() -> None:
    faults = Faults().deafen(TOPOLOGY.expand("eu"))
    assert drop_rules(faults, TOPOLOGY) == {"eu-1": ("*",), "eu-2": ("*",)}


def test_a_region_is_never_cut_from_itself_when_both_sides_overlap() -> None:
    region = TOPOLOGY.expand("eu")
    silences = Faults().separate(region, region, one_way=False).silences
    assert all(silence.speaker != silence.listener for silence in silences)


@given(faults=some_faults(), hosts=HOSTS)
def test_cutting_twice_is_cutting_once(faults: Faults, hosts: list) -> None:  # type: ignore[type-arg]
    once = faults.cut_off(hosts)
    assert once.cut_off(hosts) == once
    assert faults.deafen(hosts).deafen(hosts) == faults.deafen(hosts)


@given(faults=some_faults())
def test_healing_everything_leaves_nothing(faults: Faults) -> None:
    assert not faults.heal()
    assert not faults.heal(TOPOLOGY.hosts).down


@given(faults=some_faults(), hosts=HOSTS)
def test_healing_a_host_leaves_the_others_as_they_were(faults: Faults, hosts: list) -> None:  # type: ignore[type-arg]
    names = {host.name for host in hosts}
    healed = faults.heal(hosts)
    assert not healed.down & names
    assert healed.down == faults.down - names
    assert all(not {s.speaker, s.listener} & names for s in healed.silences)
    assert healed.silences <= faults.silences


@given(faults=some_faults())
def test_the_record_survives_json(faults: Faults) -> None:
    assert Faults.from_json(json.loads(json.dumps(faults.to_json()))) == faults
