"""Events of this node that the control plane has not said to have recorded: kept in order, on disk, bounded."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from fleet import telemetry
from fleet.files import write_atomic
from locci.v1 import agent_pb2, event_pb2

log = structlog.get_logger()

EVENTS_MAX: Final = 500
EVENTS_PER_STATUS_MAX: Final = 100
REPEATED: Final = "repeated"
"""The detail of an event that says how many of its like are told by it."""


class Outbox:
    """`events.pb` in the state directory: the events that wait, as a `Status`. A damaged one costs what was in it.

    The same thing happening again while its first word waits is told once, with a count. Events are told at least
    once: again in each session until they are recorded.
    """

    def __init__(self, path: Path | None = None):
        """Without a path nothing survives a restart."""
        self._path = path
        self._changed = asyncio.Event()
        self._failed = False
        self._waiting: dict[int, event_pb2.Event] = {}
        self._number = 0
        self._told = 0
        self.series = str(uuid.uuid4())
        self._load()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, event: event_pb2.Event) -> None:
        """Takes an event to be told; when there are too many, the least important of the oldest is forgotten."""
        self._number += 1
        for number in [n for n, known in self._waiting.items() if n > self._told and _alike(known, event)]:
            before = self._waiting.pop(number)
            event.details[REPEATED] = str(int(before.details.get(REPEATED, "1")) + 1)
        self._waiting[self._number] = event
        if len(self._waiting) > EVENTS_MAX:
            del self._waiting[min(self._waiting, key=lambda n: (self._waiting[n].severity, n))]
        self._changed.set()

    def session_began(self) -> None:
        """Everything that waits is to be told again."""
        self._told = 0

    @property
    def untold(self) -> bool:
        """Whether there is something to tell in this session."""
        return any(number > self._told for number in self._waiting)

    def tell(self, status: agent_pb2.Status) -> None:
        """Puts what was not told in this session into `status`, oldest first, as much as one may hold."""
        numbers = sorted(number for number in self._waiting if number > self._told)[:EVENTS_PER_STATUS_MAX]
        if numbers:
            status.events.extend(self._waiting[number] for number in numbers)
            status.events_through = self._told = numbers[-1]
            status.events_series = self.series

    def recorded(self, message: agent_pb2.EventsRecorded) -> None:
        """The control plane has these in its store."""
        if message.series == self.series:
            self._waiting = {number: e for number, e in self._waiting.items() if number > message.through}
            self._changed.set()

    async def run(self) -> None:
        """Writes what changed, the newest only, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.to_thread(self._write, self._content())

    def _content(self) -> bytes:
        status = agent_pb2.Status(events_series=self.series, events_through=self._number)
        status.events.extend(self._waiting[number] for number in sorted(self._waiting))
        return status.SerializeToString()

    def _load(self) -> None:
        try:
            status = agent_pb2.Status.FromString(self._path.read_bytes() if self._path else b"")
        except FileNotFoundError:
            return
        except (OSError, DecodeError) as error:
            log.error("outbox_damaged", **{telemetry.REASON: f"{self._path}: {error}; events that waited are lost"})
            return
        if status.events_series and status.events_through >= len(status.events):
            self.series, self._number = status.events_series, status.events_through
            first = self._number - len(status.events) + 1
            self._waiting = dict(enumerate(status.events, start=first))

    def _write(self, content: bytes) -> None:
        if self._path is None:
            return
        try:
            write_atomic(self._path, content)
            self._failed = False
        except OSError as error:
            if not self._failed:
                reason = f"{self._path} cannot be written: {error.strerror}; free some space there"
                log.error("events_not_saved", **{telemetry.REASON: reason})
            self._failed = True


def _alike(one: event_pb2.Event, other: event_pb2.Event) -> bool:
    return (one.type, one.severity, one.message, list(one.subjects)) == (
        other.type,
        other.severity,
        other.message,
        list(other.subjects),
    )
