"""The run of a drill as a machine: from what is seen of the fleet to the run's next state.

It starts when every agent that is asked has accepted its faults, and measures until the DNS servers have the targets of
every step back in rotation. Every state has a deadline. The faults are begun and ended by the agents, by their own
clocks; here they are only called off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from control_plane.core.drills import Objectives, judge

START_S: Final = 15.0
"""Agents must have accepted the fault within this."""
START_DELAY_S: Final = 1.0
"""Agents begin a fault so long after they accepted it."""
RECOVER_S: Final = 90.0
"""Endpoints must be back within this after the fault's end."""
DURATION_S_MAX: Final = 900.0


REQUESTS_MIN: Final = 10
"""Before so many requests of clients nothing is said of their share that failed."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Bounds within which a run may begin and go on."""

    healthy_regions_min: int = 1
    failed_percent_max: int = 0
    """0 for no bound, as below."""
    load_percent_max: int = 0


class State(Enum):
    """Where a run stands."""

    STARTING = "starting"
    FAULTY = "faulty"
    RECOVERING = "recovering"
    PASSED = "passed"
    FAILED = "failed"
    ABORTED = "aborted"


TERMINAL: Final = frozenset({State.PASSED, State.FAILED, State.ABORTED})


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was seen, in seconds since the first fault; `step` counts from 1, 0 is the whole run."""

    stage: str
    after_s: float
    detail: str
    step: int = 0


@dataclass(frozen=True, slots=True)
class FaultStep:
    """One fault of a run."""

    offset_s: float = 0.0
    """It begins so long after the first."""
    duration_s: float = 30.0
    withdraws: bool = True
    """It is one that must be answered by withdrawing the targets; another one need not be noticed."""
    rolls_back: bool = False
    """It is a release that must be rolled back by itself."""
    title: str = ""

    @property
    def end_s(self) -> float:
        """Its end, in seconds since the first fault."""
        return self.offset_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Run:
    """A run. Times in seconds since 1970, by a clock that is never set."""

    state: State
    since: float
    steps: tuple[FaultStep, ...] = (FaultStep(),)
    objectives: Objectives = field(default_factory=Objectives)
    guards: Guards = field(default_factory=Guards)
    fault_at: float | None = None
    marks: tuple[Mark, ...] = ()
    abort_reason: str = ""
    reason: str = ""
    failures: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """From the first fault to the end of the last."""
        return max(step.end_s for step in self.steps)

    def number(self, index: int) -> int:
        """How marks name a step: a run of one needs no numbers."""
        return index + 1 if len(self.steps) > 1 else 0

    def has(self, stage: str, index: int = 0) -> bool:
        """Whether the stage of a step was seen."""
        return any(mark.stage == stage and mark.step == self.number(index) for mark in self.marks)


@dataclass(frozen=True, slots=True)
class StepSight:
    """What is seen of a step's targets."""

    vantages: int = 0
    """DNS servers outside the targets that judge them."""
    against: int = 0
    """How many of those have at least one target out of order or out of rotation."""
    out: int = 0
    """How many of those have every target out of rotation."""
    back: int = 0
    """How many of those have every target in rotation."""
    failed_release: str = ""
    """Why the bad release did not get healthy; empty while that is not known."""
    rolled_back: bool = False
    """The release before it is in effect again."""

    @property
    def is_back(self) -> bool:
        """Whether all is as before the fault."""
        return self.rolled_back or bool(self.vantages and self.back == self.vantages)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a run."""

    accepted: bool
    """Every agent that is asked holds its faults."""
    refused: str = ""
    """Why an agent refused what it was sent; empty when none did."""
    not_begun: str = ""
    """Why an agent does not inject a fault, though it holds it; empty when none said so."""
    unproven: tuple[str, ...] = ()
    """Faults that no agent has said to have begun or undone, in sentences; one that is cut off says so later."""
    steps: tuple[StepSight, ...] = ()
    elsewhere: int = 0
    """Regions that have healthy replicas of the app on ready nodes besides the targets of the faults in effect."""
    load_without: float = 0.0
    """Load per processor of the other hosts of edges, if they took over that of the targets."""
    requests: int = 0
    """What synthetic clients asked since the run began."""
    failed: int = 0
    """How much of that failed."""
    gap_s: float = 0.0
    """The longest time that clients of a region were without a good answer."""


def objections(
    sight: Sight,
    duration_s: float,
    *,
    busy: str,
    braked: bool,
    unready: tuple[str, ...],
    guards: Guards | None = None,
    blocked: str = "",
) -> Iterator[str]:
    """Why a run must not begin now, in sentences.

    `unready` are targets that cannot take part, with the reason; `blocked` is the window of the drill that is now.
    """
    guards = guards or Guards()
    if busy:
        yield f"{busy} goes on: one drill at a time"
    if blocked:
        yield f"it is within a blocked window, {blocked} (UTC)"
    if braked:
        yield "the brake is engaged: the fleet is in trouble already"
    yield from unready
    if not 0 < duration_s <= DURATION_S_MAX:
        yield f"the fault would last for {duration_s:g} s; above 0 and at most {DURATION_S_MAX:g} s is allowed"
    if any(not step.is_back and not step.vantages for step in sight.steps):
        yield "no DNS server outside the target judges it, so that nothing could be measured"
    elif not all(step.is_back for step in sight.steps):
        yield "the target is not in rotation everywhere as it is"
    if reason := _too_few(sight, guards):
        yield f"{reason}: clients would not be served"
    if guards.load_percent_max and sight.load_without * 100 > guards.load_percent_max:
        load = f"{sight.load_without * 100:.0f} %"
        yield f"the other hosts would be loaded to {load} of their processors; {guards.load_percent_max} % is allowed"


def _too_few(sight: Sight, guards: Guards) -> str:
    if sight.elsewhere >= guards.healthy_regions_min:
        return ""
    if not sight.elsewhere:
        return "nowhere else is a healthy replica of the hostname's app"
    wanted = guards.healthy_regions_min
    return f"healthy replicas of the hostname's app are in {sight.elsewhere} other region(s), fewer than {wanted}"


def _too_many_failed(sight: Sight, guards: Guards) -> str:
    allowed = guards.failed_percent_max
    if not allowed or sight.requests < REQUESTS_MIN or sight.failed * 100 <= allowed * sight.requests:
        return ""
    return f"{sight.failed} of {sight.requests} requests of clients failed, more than {allowed} %"


def step(run: Run, sight: Sight, now: float) -> Run:
    """The run after what is seen now."""
    match run.state:
        case State.STARTING:
            return _starting(run, sight, now)
        case State.FAULTY:
            return _faulty(run, sight, now)
        case State.RECOVERING:
            return _recovering(run, sight, now)
        case State.PASSED | State.FAILED | State.ABORTED:
            return run


def aborted(run: Run, reason: str, now: float) -> Run:
    """The run, called off; nothing changes when it is recovering or has ended."""
    if run.state not in (State.STARTING, State.FAULTY):
        return run
    return replace(_into(run, State.RECOVERING, now, f"called off: {reason}"), abort_reason=reason)


def _starting(run: Run, sight: Sight, now: float) -> Run:
    if sight.refused:
        return aborted(run, f"a host refused the fault: {sight.refused}", now)
    if sight.not_begun:
        return aborted(run, f"the fault was not injected: {sight.not_begun}", now)
    if sight.accepted:
        begun = replace(run, fault_at=now + START_DELAY_S)
        return _into(_begun(begun, 0.0), State.FAULTY, now, "the fault is in effect")
    if now - run.since >= START_S:
        return aborted(run, f"not every agent accepted the fault within {START_S:g} s", now)
    return run


def _faulty(run: Run, sight: Sight, now: float) -> Run:
    assert run.fault_at is not None
    after_s = now - run.fault_at
    if sight.not_begun:
        return aborted(run, f"the fault was not injected: {sight.not_begun}", now)
    if after_s < 0:
        return run
    run = _watched(_begun(run, after_s), sight, after_s)
    if reason := _too_few(sight, run.guards) or _too_many_failed(sight, run.guards):
        return aborted(run, reason, now)
    if after_s >= run.duration_s:
        return _into(run, State.RECOVERING, now, "the fault has ended; the target is to come back")
    return run


def _begun(run: Run, after_s: float) -> Run:
    """With a mark for every step that has begun until then. Agents begin them by their own clocks."""
    for index, step in enumerate(run.steps):
        if after_s >= step.offset_s and not run.has("fault", index):
            run = _marked(run, index, "fault", step.offset_s, step.title or "the agents begin the fault")
    return run


def _watched(run: Run, sight: Sight, after_s: float) -> Run:
    """With what is seen of each step in effect, and then of its end."""
    for index, (step, seen) in enumerate(zip(run.steps, sight.steps, strict=True)):
        if after_s < step.offset_s:
            continue
        if not run.has("healed", index):
            run = _suffered(run, index, seen, after_s)
            if after_s >= step.end_s:
                run = _marked(run, index, "healed", after_s, "the fault's time is over")
        elif len(run.steps) > 1:
            run = _restored(run, index, seen, after_s)
    return run


def _suffered(run: Run, index: int, seen: StepSight, after_s: float) -> Run:
    if run.steps[index].rolls_back:
        if seen.failed_release and not run.has("detected", index):
            run = _marked(run, index, "detected", after_s, seen.failed_release)
        if seen.rolled_back and run.has("detected", index) and not run.has("rolled-back", index):
            run = _marked(run, index, "rolled-back", after_s, "the release before it is in effect again")
        return run
    if seen.vantages and seen.against and not run.has("detected", index):
        run = _marked(run, index, "detected", after_s, f"seen by {seen.against} of {_servers(seen.vantages)}")
    if seen.vantages and seen.out == seen.vantages and not run.has("withdrawn", index):
        run = _marked(run, index, "withdrawn", after_s, f"{_servers(seen.out, 'answer')} without it")
    return run


def _servers(count: int, do: str = "") -> str:
    """So many DNS servers, and what they do."""
    if count == 1:
        return f"1 DNS server {do}s" if do else "1 DNS server"
    return f"{count} DNS servers {do}".rstrip()


def _restored(run: Run, index: int, seen: StepSight, after_s: float) -> Run:
    if not seen.is_back or run.has("restored", index):
        return run
    again = "the release before it serves" if seen.rolled_back else f"{_servers(seen.back, 'answer')} with it again"
    return _marked(run, index, "restored", after_s, again)


def _recovering(run: Run, sight: Sight, now: float) -> Run:
    if run.fault_at is None:
        return _judged(run, sight, now)
    after_s = now - run.fault_at
    # A fault that was called off may last for its whole time where the word does not arrive.
    if after_s >= run.duration_s or not run.abort_reason or not sight.unproven:
        for index, seen in enumerate(sight.steps):
            run = _restored(run, index, seen, after_s)
        proven = run.abort_reason or not sight.unproven
        if proven and all(run.has("restored", index) for index in range(len(run.steps))):
            return _judged(run, sight, now)
    if after_s >= run.duration_s + RECOVER_S:
        return _judged(run, sight, now)
    return run


def _judged(run: Run, sight: Sight, now: float) -> Run:
    if run.abort_reason:
        return replace(_into(run, State.ABORTED, now, f"called off: {run.abort_reason}"), failures=(run.abort_reason,))
    failures = (*sight.unproven, *(failure for index in range(len(run.steps)) for failure in _missed(run, index)))
    if sight.gap_s > run.objectives.reroute_s:
        limit = f"the objective is {run.objectives.reroute_s:g} s"
        failures = (*failures, f"rerouted: clients were without an answer for {sight.gap_s:.1f} s; {limit}")
    if failures:
        return replace(_into(run, State.FAILED, now, "; ".join(failures)), failures=failures)
    return _into(run, State.PASSED, now, "every objective was met")


def _missed(run: Run, index: int) -> Iterator[str]:
    """What a step missed, in sentences; its times count from its own beginning."""
    step, number = run.steps[index], run.number(index)
    marks: dict[str, float] = {}
    for mark in run.marks:
        if mark.step == number:
            marks.setdefault(mark.stage, mark.after_s - step.offset_s)
    where = f"step {number}, " if number else ""
    for failure in judge(run.objectives, marks, clients=False, withdraws=step.withdraws):
        yield f"{where}{failure}"
    if step.rolls_back and "rolled-back" not in marks:
        yield f"{where}rolled-back: the bad release was not rolled back within {step.duration_s:g} s"


def _marked(run: Run, index: int, stage: str, after_s: float, detail: str) -> Run:
    return replace(run, marks=(*run.marks, Mark(stage, after_s, detail, run.number(index))))


def _into(run: Run, state: State, now: float, reason: str) -> Run:
    return replace(run, state=state, since=now, reason=reason)
