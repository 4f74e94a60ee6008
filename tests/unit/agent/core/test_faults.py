"""Faults: begun once, late enough to be heard of, and always ended."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.core.faults import (
    DURATION_S_MAX,
    ENDED_MAX,
    START_DELAY_S,
    Accepted,
    Active,
    Begin,
    End,
    Fault,
    Journal,
    Kind,
    Moment,
    Note,
    Part,
    Skip,
    plan,
)

CUT = Fault("faults/cut-eu/1", Kind.CUT, 30.0, begin_before=1_000.0)
NOW = Moment("boot-a", uptime_s=100.0, wall_s=990.0)
ACTIVE = Active(CUT, until=130.0, boot_id="boot-a")


def at(uptime_s: float, boot_id: str = "boot-a") -> Moment:
    return Moment(boot_id, uptime_s, 990.0 + uptime_s - 100.0)


def waiting(*faults: Fault, since: float = 100.0, active: tuple[Active, ...] = ()) -> Journal:
    names = sorted(fault.mark for fault in faults)
    return Journal(active, (), tuple(Accepted(name, since, "boot-a") for name in names))


def test_it_is_written_down_and_begins_when_its_acceptance_was_heard() -> None:
    assert plan([CUT], Journal(), NOW) == [Note((Accepted(CUT.mark, 100.0, "boot-a"),))]
    assert not plan([CUT], waiting(CUT), NOW)
    assert plan([CUT], waiting(CUT), at(100.0 + START_DELAY_S)) == [Begin(replace(ACTIVE, until=131.0))]


def test_a_later_step_begins_by_the_first_acceptance_also_after_a_crash() -> None:
    later = replace(CUT, offset_s=5.0)
    assert not plan([later], waiting(later), at(105.9))
    assert plan([later], waiting(later), at(106.0)) == [Begin(Active(later, 136.0, "boot-a"))]
    assert plan([later], waiting(later), at(106.0, "boot-b")) == [
        Skip(later, "the host was booted anew before its time")
    ]


def test_it_is_not_begun_late_nor_twice() -> None:
    assert isinstance(plan([CUT], waiting(CUT), at(111.0))[0], Skip)
    assert not plan([CUT], Journal().closed(CUT), NOW)


def test_a_run_of_the_same_name_of_another_time_is_another_fault() -> None:
    """A drill that was deleted and declared anew, and a control plane from a backup, count their runs from 1."""
    again = replace(CUT, begin_before=2_000.0)
    assert plan([again], Journal().closed(CUT), NOW) == [Note((Accepted(again.mark, 100.0, "boot-a"),))]
    assert plan([again], waiting(again, active=(ACTIVE,)), NOW) == [End(CUT, "it was called off")]
    assert not plan([again], Journal(ended=(CUT.name,)), NOW), "agents of before wrote names"


def test_what_the_host_refuses_is_skipped_at_once() -> None:
    refused = replace(CUT, refused="this host's policy (drills) does not allow drills")
    assert plan([refused], waiting(refused), NOW) == [Skip(refused, refused.refused)]


def test_it_ends_by_its_time_its_call_and_a_boot() -> None:
    held = waiting(CUT, active=(ACTIVE,))
    assert not plan([CUT], held, at(129.9))
    assert plan([CUT], held, at(130.0)) == [End(CUT, "its time is over")]
    assert plan([], held, NOW)[0] == End(CUT, "it was called off")
    assert plan([CUT], held, at(1.0, "boot-b")) == [End(CUT, "the host was booted anew")]


def test_one_at_a_time_of_each_part_of_the_host() -> None:
    same, other = replace(CUT, name="faults/another/1"), replace(CUT, name="faults/third/1", kind=Kind.FROZEN)
    assert (same.part, other.part) == (Part.FIREWALL, Part.PROGRAMS)
    journal = waiting(CUT, same, other, since=0.0, active=(ACTIVE,))
    assert plan([CUT, same, other], journal, NOW) == [Begin(Active(other, 130.0, "boot-a"))]
    assert not plan([CUT, same], waiting(CUT, same, since=0.0, active=(ACTIVE,)), NOW)
    late = waiting(CUT, same, since=0.0, active=(replace(ACTIVE, until=900.0),))
    (skipped,) = plan([CUT, same], late, at(120.0))
    assert skipped == Skip(same, "faults/cut-eu/1 holds the firewall")


def test_an_end_that_cannot_be_done_holds_nothing_else_up() -> None:
    other = replace(CUT, name="faults/third/1", kind=Kind.FROZEN)
    due = plan([other], waiting(other, since=0.0, active=(ACTIVE,)), NOW)
    assert due == [End(CUT, "it was called off"), Begin(Active(other, 130.0, "boot-a"))]


def test_no_fault_is_longer_than_the_longest() -> None:
    (step,) = plan([replace(CUT, duration_s=1e9)], waiting(CUT, since=0.0), NOW)
    assert isinstance(step, Begin)
    assert step.active.until == NOW.uptime_s + DURATION_S_MAX


def test_what_has_ended_is_remembered_within_bounds() -> None:
    journal = Journal()
    for number in range(ENDED_MAX + 5):
        journal = journal.closed(replace(CUT, name=f"faults/d/{number}"))
    assert len(journal.ended) == ENDED_MAX
    assert journal.ended[-1] == f"faults/d/{ENDED_MAX + 4} 1000.000"


@given(
    times=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60),
    boots=st.sets(st.integers(0, 60), max_size=3),
    calls=st.sets(st.integers(0, 60), max_size=3),
)
def test_it_is_begun_once_at_most_and_never_outlives_its_time(
    times: list[float], boots: set[int], calls: set[int]
) -> None:
    journal, uptime, boot, begun = Journal(), 100.0, 0, 0
    fault = replace(CUT, begin_before=1e9)
    for index, step_s in enumerate(times):
        uptime += step_s
        boot += index in boots
        now = Moment(f"boot-{boot}", uptime, uptime)
        for _ in range(3):
            for step in plan([] if index in calls else [fault], journal, now):
                if isinstance(step, Begin):
                    begun += 1
                    journal = journal.begun(step.active)
                elif isinstance(step, Note):
                    journal = journal.noted(step.accepted)
                else:
                    journal = journal.closed(step.fault)
        assert all(uptime < active.until and active.boot_id == now.boot_id for active in journal.active)
    assert begun <= 1
