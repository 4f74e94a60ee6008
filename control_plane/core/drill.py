"""The run of a drill as a machine: from what is seen of the fleet to the run's next state.

It starts when every target's agent has accepted the fault, and measures until the DNS servers have the targets back in
rotation. Every state has a deadline. The fault itself is ended by the agents, by their own clocks; here it is only
called off.
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
    """Something that was seen, in seconds since the fault."""

    stage: str
    after_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run. Times in seconds since 1970, by a clock that is never set."""

    state: State
    since: float
    duration_s: float
    objectives: Objectives = field(default_factory=Objectives)
    withdraws: bool = True
    """The fault is one that must be answered by withdrawing the targets; another one need not be noticed."""
    guards: Guards = field(default_factory=Guards)
    fault_at: float | None = None
    marks: tuple[Mark, ...] = ()
    abort_reason: str = ""
    reason: str = ""
    failures: tuple[str, ...] = ()

    def has(self, stage: str) -> bool:
        """Whether the stage was seen."""
        return any(mark.stage == stage for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a run's targets."""

    accepted: bool
    """Every target's agent holds the fault."""
    refused: str = ""
    """Why an agent refused what it was sent; empty when none did."""
    not_begun: str = ""
    """Why an agent does not inject the fault, though it holds it; empty when none said so."""
    vantages: int = 0
    """DNS servers outside the targets that judge them."""
    against: int = 0
    """How many of those have at least one target out of order or out of rotation."""
    out: int = 0
    """How many of those have every target out of rotation."""
    back: int = 0
    """How many of those have every target in rotation."""
    elsewhere: int = 0
    """Regions that have healthy replicas of the app on ready nodes besides the targets."""
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
    if not sight.vantages:
        yield "no DNS server outside the target judges it, so that nothing could be measured"
    elif sight.back < sight.vantages:
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
        begun = replace(run, fault_at=now + START_DELAY_S, marks=(Mark("fault", 0.0, "the agents begin the fault"),))
        return _into(begun, State.FAULTY, now, "the fault is in effect")
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
    if sight.vantages and sight.against and not run.has("detected"):
        run = _marked(run, "detected", after_s, f"{sight.against} of {sight.vantages} DNS servers saw it")
    if sight.vantages and sight.out == sight.vantages and not run.has("withdrawn"):
        run = _marked(run, "withdrawn", after_s, f"{sight.out} DNS servers answer without it")
    if reason := _too_few(sight, run.guards) or _too_many_failed(sight, run.guards):
        return aborted(run, reason, now)
    if after_s >= run.duration_s:
        run = _marked(run, "healed", after_s, "the fault's time is over")
        return _into(run, State.RECOVERING, now, "the fault has ended; the target is to come back")
    return run


def _recovering(run: Run, sight: Sight, now: float) -> Run:
    if run.fault_at is None:
        return _judged(run, sight, now)
    after_s = now - run.fault_at
    # A fault that was called off may last for its whole time where the word does not arrive.
    settled = after_s >= run.duration_s or not run.abort_reason
    if settled and sight.vantages and sight.back == sight.vantages:
        return _judged(_marked(run, "restored", after_s, f"{sight.back} DNS servers answer with it again"), sight, now)
    if after_s >= run.duration_s + RECOVER_S:
        return _judged(run, sight, now)
    return run


def _judged(run: Run, sight: Sight, now: float) -> Run:
    marks: dict[str, float] = {}
    for mark in run.marks:
        marks.setdefault(mark.stage, mark.after_s)
    if run.abort_reason:
        return replace(_into(run, State.ABORTED, now, f"called off: {run.abort_reason}"), failures=(run.abort_reason,))
    failures = judge(run.objectives, marks, clients=False, withdraws=run.withdraws)
    if sight.gap_s > run.objectives.reroute_s:
        limit = f"the objective is {run.objectives.reroute_s:g} s"
        failures = (*failures, f"rerouted: clients were without an answer for {sight.gap_s:.1f} s; {limit}")
    if failures:
        return replace(_into(run, State.FAILED, now, "; ".join(failures)), failures=failures)
    return _into(run, State.PASSED, now, "every objective was met")


def _marked(run: Run, stage: str, after_s: float, detail: str) -> Run:
    return replace(run, marks=(*run.marks, Mark(stage, after_s, detail)))


def _into(run: Run, state: State, now: float, reason: str) -> Run:
    return replace(run, state=state, since=now, reason=reason)
