"""Faults: begun once, late enough to be heard of, and always ended."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.core.faults import (
    DURATION_S_MAX,
    ENDED_MAX,
    START_DELAY_S,
    Active,
    Begin,
    End,
    Fault,
    Journal,
    Kind,
    Moment,
    Skip,
    plan,
)

CUT = Fault("faults/cut-eu/1", Kind.CUT, 30.0, begin_before=1_000.0)
NOW = Moment("boot-a", uptime_s=100.0, wall_s=990.0)
ACTIVE = Active(CUT, until=130.0, boot_id="boot-a")


def at(uptime_s: float, boot_id: str = "boot-a") -> Moment:
    return Moment(boot_id, uptime_s, 990.0 + uptime_s - 100.0)


def test_it_begins_when_its_acceptance_was_heard() -> None:
    assert plan({CUT: 100.0}, Journal(), NOW) is None
    assert plan({CUT: 100.0}, Journal(), at(100.0 + START_DELAY_S)) == Begin(replace(ACTIVE, until=131.0))


def test_it_is_not_begun_late_nor_twice() -> None:
    assert isinstance(plan({CUT: 100.0}, Journal(), at(111.0)), Skip)
    assert plan({CUT: 0.0}, Journal().closed(CUT.name), NOW) is None


def test_what_the_host_refuses_is_skipped_at_once() -> None:
    refused = replace(CUT, refused="this host's policy (drills) does not allow drills")
    assert plan({refused: 100.0}, Journal(), NOW) == Skip(refused, refused.refused)


def test_it_ends_by_its_time_its_call_and_a_boot() -> None:
    held = Journal(ACTIVE)
    assert plan({CUT: 0.0}, held, at(129.9)) is None
    assert plan({CUT: 0.0}, held, at(130.0)) == End(CUT, "its time is over")
    assert plan({}, held, NOW) == End(CUT, "it was called off")
    assert plan({CUT: 0.0}, held, at(1.0, "boot-b")) == End(CUT, "the host was booted anew")


def test_one_at_a_time() -> None:
    other = replace(CUT, name="faults/another/1")
    assert plan({CUT: 0.0, other: 0.0}, Journal(ACTIVE), NOW) is None


def test_no_fault_is_longer_than_the_longest() -> None:
    step = plan({replace(CUT, duration_s=1e9): 0.0}, Journal(), NOW)
    assert isinstance(step, Begin)
    assert step.active.until == NOW.uptime_s + DURATION_S_MAX


def test_what_has_ended_is_remembered_within_bounds() -> None:
    journal = Journal()
    for number in range(ENDED_MAX + 5):
        journal = journal.closed(f"faults/d/{number}")
    assert len(journal.ended) == ENDED_MAX
    assert journal.ended[-1] == f"faults/d/{ENDED_MAX + 4}"


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
        wanted = {} if index in calls else {fault: 100.0}
        now = Moment(f"boot-{boot}", uptime, uptime)
        step = plan(wanted, journal, now)
        if isinstance(step, Begin):
            begun += 1
            journal = journal.begun(step.active)
        elif isinstance(step, End):
            journal = journal.closed(step.fault.name)
        active = journal.active
        assert active is None or (uptime < active.until and active.boot_id == now.boot_id)
    assert begun <= 1
