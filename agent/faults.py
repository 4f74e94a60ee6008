"""Begins and ends the faults that drills ask of this host. Whatever becomes of the agent, each one is undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, assert_never

import structlog

from agent.adapters.breaker import Breaker
from agent.adapters.fault_journal import FaultJournal
from agent.core.faults import Active, Begin, End, Fault, Journal, Moment, Note, Skip, Step, plan
from agent.core.messages import RecordEvent
from fleet import telemetry
from fleet.errors import LocciError

log = structlog.get_logger()

JOURNAL_NAME: Final = "faults.json"
_LOOK_S: Final = 0.25
_RETRY_S: Final = 1.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Severity = Literal["info", "warning", "error"]


class FaultKeeper:
    """The faults of one host."""

    def __init__(
        self,
        journal: FaultJournal,
        breaker: Breaker,
        record: Callable[[RecordEvent], None],
        guard: Callable[[], None] = lambda: None,
    ):
        """`guard` is called when a fault is written down and about to begin."""
        self._guard = guard
        self._journal = journal
        self._breaker = breaker
        self._record = record
        self._boot_id = _BOOT_ID.read_text().strip()
        self._wanted: frozenset[Fault] = frozenset()
        self._changed = asyncio.Event()

    def want(self, faults: Iterable[Fault]) -> None:
        """These, and no others, are wanted from now on."""
        self._wanted = frozenset(faults)
        self._changed.set()

    async def run(self) -> None:
        """Begins and ends faults until cancelled. Those of an earlier run of the agent are ended first."""
        while (step := _leftover(self._journal, "the agent was started anew")) or self._journal.damaged:
            if not await self._step(step):
                await asyncio.sleep(_RETRY_S)
        while True:
            journal = self._journal.journal
            due = plan(self._wanted, journal, Moment(self._boot_id, uptime_s(), time.time()))
            if due:
                if not all([await self._step(step) for step in due]):
                    await asyncio.sleep(_RETRY_S)
                continue
            try:
                async with asyncio.timeout(_LOOK_S if self._wanted or journal.active else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    async def close(self) -> None:
        """The agent is stopped: so is what it broke."""
        for active in self._journal.journal.active:
            await self._step(End(active.fault, "the agent was stopped"))

    async def _step(self, step: Step | None) -> bool:
        """Whether it could be taken; an end that could not is to be tried again."""
        # Never torn by a cancellation: what a thread has begun is brought to its end.
        doing = asyncio.ensure_future(asyncio.to_thread(self._take, step))
        try:
            told = await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait([doing])
            raise
        except (LocciError, OSError) as error:
            log.error("fault_not_undone", **{telemetry.REASON: f"{error}; tried again in {_RETRY_S:g} s"})
            return False
        if told is not None:
            log.warning("fault", **{telemetry.REASON: told.message})
            self._record(told)
        return True

    def _take(self, step: Step | None) -> RecordEvent | None:
        match step:
            case None:
                if self._journal.damaged:
                    self._breaker.end()
                    self._journal.write(Journal())
                return None
            case Note():
                self._journal.write(self._journal.journal.noted(step.accepted))
                return None
            case Begin():
                return self._begin(step.active)
            case End():
                end(self._journal, self._breaker, step.fault)
                told = self._breaker.told(step.fault.part)
                return _event("FaultEnded", "info", step.fault, f"was undone: {step.reason}{told}")
            case Skip():
                self._journal.write(self._journal.journal.closed(step.fault))
                kind = "FaultRefused" if step.fault.refused else "FaultSkipped"
                return _event(kind, "warning", step.fault, f"was not begun: {step.reason}")
            case _:
                assert_never(step)

    def _begin(self, active: Active) -> RecordEvent:
        fault = active.fault
        try:
            self._journal.write(self._journal.journal.begun(active))
            self._guard()
            self._breaker.begin(fault)
        except (LocciError, OSError) as error:
            end(self._journal, self._breaker, fault)
            return _event("FaultFailed", "error", fault, f"could not be begun: {error}")
        return _event("FaultBegan", "warning", fault, f"is in effect for {fault.duration_s:g} s at most")


def end(journal: FaultJournal, breaker: Breaker, fault: Fault) -> None:
    """Undoes a fault and writes that down. Raises LocciError or OSError; it may be repeated."""
    breaker.end(fault.part)
    journal.write(journal.journal.closed(fault))


def end_leftover(state_dir: Path, breaker: Breaker) -> list[str]:
    """Undoes what an agent that is dead has left, for init to call; the names of the faults. Raises the last error of
    those that could not be undone, when all others are."""
    journal = FaultJournal(state_dir / JOURNAL_NAME)
    ended, failed = [], None
    for active in journal.journal.active:
        try:
            end(journal, breaker, active.fault)
            ended.append(active.fault.name)
        except (LocciError, OSError) as error:
            failed = error
    if failed is not None:
        raise failed
    if journal.damaged:
        breaker.end()
        journal.write(Journal())
    return ended


def _leftover(journal: FaultJournal, reason: str) -> End | None:
    return next((End(active.fault, reason) for active in journal.journal.active), None)


def _event(kind: str, severity: Severity, fault: Fault, what: str) -> RecordEvent:
    details: Mapping[str, str] = {"fault": fault.kind.value, "resource": fault.name}
    drill, number, *_ = fault.name.removeprefix("faults/").split("/")
    subject = f"drills/{drill}/runs/{number}"
    return RecordEvent(kind, severity, (subject,), f"the fault {fault.kind.value} of {subject} {what}", details)


def uptime_s() -> float:
    """Seconds since the boot; it goes on while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
