"""Which version of the agent runs: a newer one is tried, and taken back when it does not do as well in time.

Pure: events in, commands out. `now` is seconds of the host's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal, assert_never

from fleet.backoff import Backoff

PATIENCE_S: Final = 60.0
"""A version that is tried must do as well as the one before within this time from its start."""
EXITS_MAX: Final = 3
"""So often may a version that is tried end by itself."""
BOOTS_MAX: Final = 3
"""So often may the supervisor itself begin anew during one trial: a host that reboots over it takes it back."""
RESTARTS: Final = Backoff(base_s=0.5, cap_s=30.0)
FETCHES: Final = Backoff(base_s=30.0, cap_s=3600.0)
STABLE_S: Final = 60.0
DISK_S: Final = 60.0
"""A trial that could not be noted on disk is begun again after this time."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a running agent says of itself."""

    connected: bool = False
    engine: bool = False
    ready: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that has to prove itself; `key` says which request it was."""

    version: str
    before: str
    key: str
    baseline: Report = Report()
    boots: int = 0
    exits: int = 0
    deadline: float = 0.0


@dataclass(frozen=True, slots=True)
class Began:
    """The supervisor began; `adopted` with the agent of the supervisor whose place it took."""

    adopted: bool = False


@dataclass(frozen=True, slots=True)
class VersionWanted:
    """Someone wants a version; the same request has the same key."""

    version: str
    key: str
    installed: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """Fetching a version ended; `reason` is empty when it is installed now."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class SupervisorProved:
    """Whether the supervisor of the version that is tried can begin; `reason` says why not.

    Not `able` is one of a version that knows of no such thing: it begins with its unit's next start.
    """

    able: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AgentReported:
    """The running agent answered."""

    report: Report


@dataclass(frozen=True, slots=True)
class AgentExited:
    """The agent's process ended."""

    code: int


@dataclass(frozen=True, slots=True)
class NotKept:
    """A trial could not be noted on disk, or `current` not be switched to it. What was to follow is not done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StartAgent:
    """Start `current`'s agent. Answered by AgentExited in the end."""


@dataclass(frozen=True, slots=True)
class StopAgent:
    """End the running agent, gently. Answered by AgentExited."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Install a version beside the one that runs. Answered by Fetched."""

    version: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Point `current` at a version."""

    version: str


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this on disk, before what follows: a trial that a reboot interrupts goes on after it."""

    trial: Trial | None
    refused: str


class Stage(Enum):
    """How far a wanted version is."""

    FETCHING = "fetching"
    NOT_INSTALLED = "not installed"
    TRIED = "tried"
    STAYED = "stayed"
    TAKEN_BACK = "taken back"


@dataclass(frozen=True, slots=True)
class Tell:
    """Keep what became of a request, for the agent to tell the control plane."""

    version: str
    key: str
    stage: Stage
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProveSupervisor:
    """Have the supervisor of the version that `current` names show that it can begin. Answered by SupervisorProved."""


@dataclass(frozen=True, slots=True)
class RefreshOthers:
    """Have edge and DNS server take the version that `current` names, without a dropped connection or query."""


@dataclass(frozen=True, slots=True)
class BecomeSuccessor:
    """Go on as the supervisor of the version that `current` names, in the same process, with the same agent."""


@dataclass(frozen=True, slots=True)
class Note:
    """Tell people."""

    severity: Literal["info", "error"]
    message: str


Event = Began | VersionWanted | Fetched | AgentReported | SupervisorProved | AgentExited | NotKept | Ticked
Command = (
    StartAgent | StopAgent | Fetch | Switch | Remember | Tell | ProveSupervisor | RefreshOthers | BecomeSuccessor | Note
)


def does_as_well(report: Report, baseline: Report) -> bool:
    """Whether an agent does what another did before it: what is no longer wanted need not be ready."""
    links = report.connected >= baseline.connected and report.engine >= baseline.engine
    return links and baseline.ready & report.wanted <= report.ready


class Upgrade:
    """`handle` takes what happened and returns what to do, in order."""

    def __init__(self, current: str, trial: Trial | None = None, refused: str = ""):
        """`trial` and `refused` are what was remembered last."""
        self.current = current
        self._trial = trial
        self._refused = refused
        self._last = Report()
        self._running = False
        self._stopping = False
        self._proving = False
        """The agent does well, and its supervisor is about to show that it does."""
        self._started_at = 0.0
        self._failures = 0
        self._retry_at: float | None = None
        self._fetching: tuple[str, str] = ("", "")
        """Version and key of the request that is, or was last, fetched."""
        self._settled = ""
        """Key of the last request for what runs anyway."""
        self._try_at = 0.0
        self._fetch_failures = 0
        self._fetch_at: float | None = 0.0
        """When it may be fetched again; None while that goes on."""

    @property
    def trial(self) -> Trial | None:
        """What is being tried."""
        return self._trial

    def handle(self, event: Event, now: float) -> list[Command]:
        """What to do now that `event` happened."""
        match event:
            case Began(adopted):
                return self._began(adopted, now)
            case VersionWanted():
                return self._wanted(event, now)
            case Fetched(reason):
                return self._fetched(reason, now)
            case AgentReported(report):
                return self._reported(report)
            case SupervisorProved():
                return self._proved(event, now)
            case AgentExited(code):
                return self._exited(code, now)
            case NotKept(reason):
                return self._not_kept(reason, now)
            case Ticked():
                return self._ticked(now)
            case _:
                assert_never(event)

    def _began(self, adopted: bool, now: float) -> list[Command]:
        if adopted:
            self._running, self._started_at = True, now
            return [Note("info", f"the supervisor is of version {self.current} now")]
        if self._trial is None:
            return self._start(now)
        trial = self._trial = replace(self._trial, boots=self._trial.boots + 1, exits=0)
        if trial.boots > BOOTS_MAX:
            return self._go_back(f"the supervisor began {trial.boots} times during its trial", now)
        # The link may be the old one still: the switch comes after the note of it.
        self.current = trial.version
        return [Remember(trial, self._refused), Switch(trial.version), *self._start(now)]

    def _wanted(self, event: VersionWanted, now: float) -> list[Command]:
        if self._trial is not None or event.key == self._refused:
            return []
        if event.version == self.current:
            if event.key == self._settled:
                return []
            self._settled = event.key
            return [Tell(event.version, event.key, Stage.STAYED)]
        if not event.installed:
            return self._fetch(event, now)
        if now < self._try_at:
            return []
        self._trial = Trial(event.version, self.current, event.key, self._last, deadline=now + PATIENCE_S)
        self.current = event.version
        return [
            Note("info", f"trying version {event.version} instead of {self._trial.before}"),
            Remember(self._trial, self._refused),
            Tell(event.version, event.key, Stage.TRIED),
            Switch(event.version),
            *self._restart(now),
        ]

    def _fetch(self, event: VersionWanted, now: float) -> list[Command]:
        request = (event.version, event.key)
        if self._fetch_at is None or (request == self._fetching and now < self._fetch_at):
            return []
        if request != self._fetching:
            self._fetch_failures = 0
        self._fetching, self._fetch_at = request, None
        tell = Tell(event.version, event.key, Stage.FETCHING)
        return [Note("info", f"version {event.version} is wanted and fetched"), tell, Fetch(event.version)]

    def _fetched(self, reason: str, now: float) -> list[Command]:
        self._fetch_failures = self._fetch_failures + 1 if reason else 0
        self._fetch_at = now + (FETCHES.ceiling_s(self._fetch_failures - 1) if reason else 0.0)
        if not reason:
            return []
        tell = Tell(*self._fetching, Stage.NOT_INSTALLED, reason)
        return [Note("error", f"the wanted version cannot be installed: {reason}"), tell]

    def _reported(self, report: Report) -> list[Command]:
        trial = self._trial
        if trial is None:
            self._last = report
            return []
        waits = not self._running or self._stopping or self._proving
        if waits or not does_as_well(report, trial.baseline):
            return []
        self._proving, self._last = True, report
        return [ProveSupervisor()]

    def _proved(self, event: SupervisorProved, now: float) -> list[Command]:
        trial, proving, self._proving = self._trial, self._proving, False
        if trial is None or not proving:
            return []
        if event.reason:
            return self._go_back(f"its supervisor cannot begin: {event.reason}", now)
        self._trial, self._failures, self._settled = None, 0, trial.key
        return [
            Remember(None, self._refused),
            Tell(trial.version, trial.key, Stage.STAYED),
            Note("info", f"version {trial.version} does well and stays"),
            RefreshOthers(),
            *([BecomeSuccessor()] if event.able else []),
        ]

    def _exited(self, code: int, now: float) -> list[Command]:
        self._running, asked, self._stopping, self._proving = False, self._stopping, False, False
        if asked:
            return self._start(now)
        if self._trial is not None:
            self._trial = replace(self._trial, exits=self._trial.exits + 1)
            if self._trial.exits >= EXITS_MAX:
                return self._go_back(f"it ended {EXITS_MAX} times, last with exit code {code}", now)
        self._failures = 0 if now - self._started_at >= STABLE_S else self._failures + 1
        self._retry_at = now + (RESTARTS.ceiling_s(self._failures - 1) if self._failures else 0.0)
        return [Note("error", f"the agent ended with exit code {code} and is started again"), *self._ticked(now)]

    def _ticked(self, now: float) -> list[Command]:
        settled = self._trial is None or self._stopping or self._proving
        if self._trial is not None and not settled and now >= self._trial.deadline:
            return self._go_back(f"it does not do as well as the version before within {PATIENCE_S:g} s", now)
        if self._retry_at is not None and now >= self._retry_at:
            return self._start(now)
        return []

    def _go_back(self, reason: str, now: float) -> list[Command]:
        trial = self._trial
        assert trial is not None
        self._trial, self._refused, self.current = None, trial.key, trial.before
        return [
            Note("error", f"version {trial.version} is taken back, {trial.before} runs again: {reason}"),
            Switch(trial.before),
            Remember(None, self._refused),
            Tell(trial.version, trial.key, Stage.TAKEN_BACK, reason),
            *self._restart(now),
        ]

    def _not_kept(self, reason: str, now: float) -> list[Command]:
        """A trial of which nothing is noted would not be one after a reboot: the version that runs goes on."""
        trial = self._trial
        if trial is None:
            return []
        if trial.boots:
            # It is noted since before the boot, and but for the number of boots it is as it was.
            return self._start(now)
        self._trial, self.current, self._stopping, self._try_at = None, trial.before, False, now + DISK_S
        return [
            Note("error", f"version {trial.version} cannot be tried: {reason}"),
            Tell(trial.version, trial.key, Stage.NOT_INSTALLED, reason),
        ]

    def _restart(self, now: float) -> list[Command]:
        if not self._running:
            return self._start(now)
        self._stopping = True
        return [StopAgent()]

    def _start(self, now: float) -> list[Command]:
        self._running, self._started_at, self._retry_at = True, now, None
        if self._trial is not None and self._trial.exits == 0:
            self._trial = replace(self._trial, deadline=now + PATIENCE_S)
        return [StartAgent()]
