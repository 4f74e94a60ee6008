"""The shell around the cores: takes tables, probes and the feed's state in, swaps the responder, tells what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import structlog

from fleet.clock import Clock
from routing.adapters.hot_answers import HotAnswers
from routing.answering import Answering, Standing
from routing.core import failover
from routing.core.answer import Manners
from routing.core.evidence import Target
from routing.core.failover import (
    ChangeRotation,
    Command,
    Failover,
    FeedChanged,
    LookAround,
    ProbeFailed,
    ProbeLaunched,
    ProbeSucceeded,
    ReportBrake,
    ReportEvidence,
    TableAccepted,
)
from routing.core.model import RoutingTable, TargetKey
from routing.core.rate_limit import RateLimiter

log = structlog.get_logger()

Listener = Callable[[Command], None]


class Engine(Answering):
    """Answers by what its own brain decides. It is the prober's sink."""

    def __init__(
        self,
        brain: Failover,
        clock: Clock,
        remembered: Mapping[TargetKey, bool],
        manners: Manners | None = None,
        limiter: RateLimiter | None = None,
        hot: HotAnswers | None = None,
    ):
        super().__init__(clock, manners, limiter, hot)
        self.brain = brain
        self._remembered = remembered
        self._listeners: list[Listener] = []
        self.probes = {"good": 0, "silent": 0, "bad": 0, "unclear": 0}

    def standing(self) -> Standing:
        """What the brain has decided."""
        now = self._clock.monotonic()
        returning = tuple(sorted(self.brain.returning(now).items()))
        return Standing(self.brain.rotation(), self.brain.unsteady(now), returning)

    def on_command(self, listener: Listener) -> None:
        """`listener` is told each command of the brain, after answers follow it."""
        self._listeners.append(listener)

    @property
    def targets(self) -> list[Target]:
        """What is to be probed."""
        return [state.target for state in self.brain.targets.values()]

    def take_table(self, table: RoutingTable) -> None:
        """Answers by `table` from now on."""
        self.take_names(table)
        self._handle(TableAccepted(table, self._remembered))
        self._swap()

    def take_feed(self, alive: bool) -> None:
        """The stream to the control plane stands or fell."""
        if alive != self.brain.feed_alive:
            self._handle(FeedChanged(alive))

    def due_at(self, key: TargetKey) -> float:
        """When the next probe of a target is due; never for one that is gone."""
        return self.brain.due_at(key) if key in self.brain.targets else float("inf")

    def timeout_s(self, key: TargetKey) -> float:
        """After so long a probe of the target counts as silent."""
        state = self.brain.targets.get(key)
        return self.brain.cadence.probe_timeout_s(state.probed) if state else self.brain.cadence.timeout_s

    def launched(self, key: TargetKey) -> None:
        """A probe is under way."""
        self._handle(ProbeLaunched(key))

    def succeeded(self, key: TargetKey, round_trip_s: float) -> None:
        """A probe was answered."""
        self.probes["good"] += 1
        self._handle(ProbeSucceeded(key, round_trip_s))

    def failed(self, key: TargetKey, launched_at: float, silent: bool, reason: str) -> None:
        """A probe was not answered, or wrongly."""
        self.probes["silent" if silent else "bad"] += 1
        self._handle(ProbeFailed(key, launched_at, silent, reason))

    def unclear(self, key: TargetKey) -> None:
        """This host was not able to probe."""
        self.probes["unclear"] += 1

    def _handle(self, event: failover.Event) -> None:
        commands = self.brain.handle(event, self._clock.monotonic())
        if any(isinstance(command, ChangeRotation) for command in commands):
            self._swap()
        for command in commands:
            _log(command)
            for listener in self._listeners:
                listener(command)


def _log(command: Command) -> None:
    match command:
        case ChangeRotation(target, verdict):
            log.warning(
                "rotation_changed",
                node=target.node,
                region=target.region,
                family=target.family.value,
                in_rotation=verdict.in_rotation,
                rule=verdict.rule.value,
                evidence=verdict.evidence,
            )
        case ReportBrake(family, state):
            log.error("brake_changed", family=family.value, applied=state.applied, dark=state.dark, seen=state.seen)
        case ReportEvidence() | LookAround():
            return
        case _:
            assert_never(command)
