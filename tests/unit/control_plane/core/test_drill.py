"""Runs of drills in virtual time: every one ends, with a reason."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.drill import (
    RECOVER_S,
    START_S,
    TERMINAL,
    FaultStep,
    Guards,
    Run,
    Sight,
    State,
    StepSight,
    aborted,
    objections,
    step,
)

IN = StepSight(vantages=2, back=2)
DOUBTED = StepSight(vantages=2, against=1, back=1)
OUT = StepSight(vantages=2, against=2, out=2)
FINE = Sight(accepted=False, steps=(IN,), elsewhere=1)
HELD = replace(FINE, accepted=True)
SEEN = replace(HELD, steps=(DOUBTED,))
GONE = replace(HELD, steps=(OUT,))
NEW = Run(State.STARTING, 100.0, steps=(FaultStep(duration_s=20.0),))


def played(run: Run, *scenes: tuple[float, Sight]) -> Run:
    for at, sight in scenes:
        run = step(run, sight, at)
    return run


def stages(run: Run) -> dict[str, float]:
    return {mark.stage: round(mark.after_s, 3) for mark in run.marks}


def test_a_run_that_passes() -> None:
    faulty = played(NEW, (100.1, FINE), (100.2, HELD))
    assert (faulty.state, faulty.fault_at) == (State.FAULTY, 101.2)
    run = played(faulty, (101.0, HELD), (102.2, SEEN), (103.2, GONE), (121.2, GONE), (122.2, GONE), (126.2, FINE))
    assert run.state is State.PASSED
    assert stages(run) == {
        "fault": 0.0,
        "detected": 1.0,
        "withdrawn": 2.0,
        "healed": 20.0,
        "restored": 25.0,
    }


def test_what_was_late_or_never_seen_fails() -> None:
    late = played(NEW, (100.2, HELD), (108.0, GONE), (122.0, GONE), (126.0, FINE))
    assert late.state is State.FAILED
    assert "withdrawn: after 6.800 s" in late.failures[0]
    never_back = played(NEW, (100.2, HELD), (102.0, GONE), (122.0, GONE), (101.3 + 20.0 + RECOVER_S, GONE))
    assert never_back.state is State.FAILED
    assert "come back" in never_back.reason


def test_clients_that_were_without_an_answer_for_too_long_fail_it() -> None:
    run = played(NEW, (100.2, HELD), (103.0, GONE), (122.0, GONE), (126.0, replace(FINE, requests=20, gap_s=11.0)))
    assert run.state is State.FAILED
    assert "for 11.0 s; the objective is 10 s" in run.failures[0]


def test_agents_that_do_not_accept_or_refuse_end_it() -> None:
    run = played(NEW, (100.0 + START_S, FINE), (100.1 + START_S, FINE))
    assert run.state is State.ABORTED
    assert "not every agent accepted" in run.reason
    run = played(NEW, (101.0, replace(FINE, refused="policy (drills)")), (101.1, FINE))
    assert run.state is State.ABORTED
    assert "policy (drills)" in run.reason


def test_a_fault_that_no_agent_injected_ends_it() -> None:
    silent = replace(HELD, not_begun="eu-1: policy (forbidden_faults)")
    assert "forbidden_faults" in played(NEW, (100.2, silent)).abort_reason
    run = played(NEW, (100.2, HELD), (100.4, silent), (101.0, FINE), (121.2, FINE))
    assert run.state is State.ABORTED
    assert "was not injected: eu-1" in run.reason


def test_a_fault_that_need_not_be_noticed_is_not_judged_by_withdrawal() -> None:
    run = played(
        replace(NEW, steps=(FaultStep(duration_s=20.0, withdraws=False),)), (100.2, HELD), (121.3, FINE), (121.4, FINE)
    )
    assert run.state is State.PASSED
    assert "withdrawn" not in stages(run)


def test_guards_are_bounds_before_and_during() -> None:
    guards = Guards(healthy_regions_min=2, failed_percent_max=20, load_percent_max=70)
    assert "fewer than 2" in next(objections(FINE, 30.0, busy="", braked=False, unready=(), guards=guards))
    rich = replace(FINE, elsewhere=2, load_without=0.71)
    found = list(objections(rich, 30.0, busy="", braked=False, unready=(), guards=guards, blocked="08:00-09:00"))
    assert ["blocked window" in found[0], "71 %" in found[1], len(found)] == [True, True, 2]
    held = replace(HELD, elsewhere=2)
    begun = played(replace(NEW, guards=guards), (100.2, held))
    assert played(begun, (102.0, replace(held, requests=9, failed=9))).state is State.FAULTY
    assert played(begun, (102.0, replace(held, requests=20, failed=4))).state is State.FAULTY
    called_off = played(begun, (102.0, replace(held, requests=20, failed=5)))
    assert "5 of 20 requests" in called_off.abort_reason
    assert "fewer than 2" in played(begun, (102.0, HELD)).abort_reason


def test_a_guard_calls_it_off_and_waits_for_the_agents_word_or_own_limit() -> None:
    run = played(NEW, (100.2, HELD), (105.0, replace(GONE, elsewhere=0)))
    assert run.state is State.RECOVERING
    silent = replace(FINE, unproven=("the fault was not seen to be undone on nodes/eu-1",))
    assert played(run, (110.0, silent)).state is State.RECOVERING
    for ended in (played(run, (121.3, silent)), played(run, (110.0, FINE))):
        assert ended.state is State.ABORTED
        assert "nowhere else" in ended.abort_reason


def test_a_run_that_was_called_off_ends_once_all_is_undone_and_back() -> None:
    run = aborted(played(NEW, (100.2, HELD), (105.0, GONE)), "enough", 106.0)
    assert played(run, (107.0, GONE)).state is State.RECOVERING
    assert played(run, (107.0, FINE)).state is State.ABORTED


def test_an_abort_counts_once_and_only_before_the_end() -> None:
    run = aborted(played(NEW, (100.2, HELD)), "enough", 102.0)
    assert aborted(run, "again", 103.0) == run
    done = played(run, (130.0, FINE))
    assert (done.state, done.abort_reason) == (State.ABORTED, "enough")
    assert aborted(done, "late", 131.0) == done


def test_what_must_be_so_before_it_begins() -> None:
    assert not list(objections(FINE, 30.0, busy="", braked=False, unready=()))
    bad = Sight(accepted=False, steps=(StepSight(),))
    found = list(objections(bad, 1e4, busy="drills/a/runs/1", braked=True, unready=("nodes/x is lost",)))
    assert len(found) == 6
    half = replace(FINE, steps=(DOUBTED,))
    assert "in rotation" in next(objections(half, 30.0, busy="", braked=False, unready=()))


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 30.0),
            st.booleans(),
            st.integers(0, 2),
            st.integers(0, 2),
            st.integers(0, 1),
            st.sampled_from(["", "", "", "no"]),
        ),
        max_size=40,
    )
)
def test_every_run_ends(scenes: list[tuple[float, bool, int, int, int, str]]) -> None:
    run, now = NEW, NEW.since
    for after_s, accepted, out, back, elsewhere, refused in scenes:
        now += after_s
        before = run
        seen = (StepSight(2, out, out, back),)
        run = step(run, Sight(accepted, refused, steps=seen, elsewhere=elsewhere), now)
        assert before.state not in TERMINAL or run == before
    for _ in range(4):
        now += START_S + NEW.duration_s + RECOVER_S
        run = step(run, GONE, now)
    assert run.state in TERMINAL
    assert run.reason


TWO = replace(NEW, steps=(FaultStep(0.0, 10.0, title="first"), FaultStep(20.0, 10.0, withdraws=False, title="second")))


def seen(*steps: StepSight) -> Sight:
    return Sight(accepted=True, steps=steps, elsewhere=1)


def test_each_step_has_its_own_marks_and_is_judged_from_its_own_beginning() -> None:
    run = played(
        TWO,
        (100.0, seen(IN, IN)),
        (102.5, seen(OUT, IN)),
        (111.2, seen(OUT, IN)),
        (113.0, seen(IN, IN)),
        (121.1, seen(IN, IN)),
        (124.0, seen(IN, DOUBTED)),
        (131.0, seen(IN, IN)),
        (131.5, seen(IN, IN)),
    )
    assert run.state is State.PASSED, run
    assert [(mark.step, mark.stage, round(mark.after_s, 1)) for mark in run.marks] == [
        (1, "fault", 0.0),
        (1, "detected", 1.5),
        (1, "withdrawn", 1.5),
        (1, "healed", 10.2),
        (1, "restored", 12.0),
        (2, "fault", 20.0),
        (2, "detected", 23.0),
        (2, "healed", 30.0),
        (2, "restored", 30.5),
    ]


def test_what_a_later_step_misses_is_said_with_its_number() -> None:
    late = replace(TWO, steps=(TWO.steps[0], FaultStep(20.0, 10.0)))
    run = played(
        late,
        (100.0, seen(IN, IN)),
        (102.0, seen(OUT, IN)),
        (112.0, seen(IN, IN)),
        (113.0, seen(IN, IN)),
        (128.0, seen(IN, OUT)),
        (131.1, seen(IN, IN)),
        (132.0, seen(IN, IN)),
    )
    assert run.failures == ("step 2, withdrawn: after 7.000 s; the objective is 3 s",)


def test_a_bad_release_must_be_rolled_back_within_its_step() -> None:
    bad = replace(NEW, steps=(FaultStep(duration_s=20.0, withdraws=False, rolls_back=True),))
    before, running = StepSight(rolled_back=True), StepSight()
    failing = StepSight(failed_release="release 2 is not healthy")
    over = replace(failing, rolled_back=True)
    good = played(
        bad,
        (100.0, seen(before)),
        (102.0, seen(running)),
        (108.0, seen(failing)),
        (112.0, seen(over)),
        (121.0, seen(over)),
    )
    good = played(good, (121.1, seen(over)))
    assert good.state is State.PASSED, good
    assert list(stages(good)) == ["fault", "detected", "rolled-back", "healed", "restored"]
    stuck = played(bad, (100.0, seen(before)), (102.0, seen(running)), (121.0, seen(running)), (121.1, seen(over)))
    assert "the bad release was not rolled back within 20 s" in stuck.failures[0]


def test_a_fault_that_no_agent_was_seen_to_begin_is_waited_for_and_fails_it() -> None:
    unproven = replace(FINE, unproven=("the fault was not seen to begin on nodes/eu-1",))
    run = played(NEW, (100.2, HELD), (103.0, GONE), (122.0, GONE), (126.0, unproven))
    assert run.state is State.RECOVERING
    assert played(run, (127.0, FINE)).state is State.PASSED
    failed = played(run, (101.3 + 20.0 + RECOVER_S, unproven))
    assert failed.failures == ("the fault was not seen to begin on nodes/eu-1",)
    assert aborted(run, "enough", 126.5) == run
    off = played(aborted(played(NEW, (100.2, HELD)), "enough", 102.0), (121.3, unproven))
    assert off.state is State.ABORTED
