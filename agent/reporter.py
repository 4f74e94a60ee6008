"""What is still to be told to the control plane: the newest word on each replica, coalesced while nobody listens."""

from __future__ import annotations

from collections import deque
from typing import Final

from agent import encode
from agent.core.messages import RecordEvent, ReportStatus
from agent.core.model import ReplicaStatus
from fleet.clock import Clock
from locci.v1 import agent_pb2, event_pb2

EVENTS_MAX: Final = 100


class Reporter:
    """Takes reports at any time; gives out what changed since it was asked last."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._statuses: dict[str, ReplicaStatus] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self._events: deque[event_pb2.Event] = deque(maxlen=EVENTS_MAX)
        self._news = False
        self.accepted_revision = 0
        self.applied_revision = 0

    def report(self, report: ReportStatus) -> None:
        """What changed on the node."""
        self.accepted_revision = report.accepted_revision
        self.applied_revision = report.applied_revision
        for status in report.changed:
            self._statuses[status.resource] = status
            self._changed.add(status.resource)
            self._gone.discard(status.resource)
        for name in report.gone:
            self._statuses.pop(name, None)
            self._changed.discard(name)
            self._gone.add(name)
        self._news = True

    def record(self, record: RecordEvent) -> None:
        """What happened on the node; the oldest is forgotten when there is too much."""
        self._events.append(encode.event(record, self._clock.wall()))
        self._news = True

    def complete(self) -> agent_pb2.Status:
        """Everything there is to say."""
        self._changed = set(self._statuses)
        self._gone.clear()
        status = self._take()
        status.complete = True
        return status

    def change(self) -> agent_pb2.Status | None:
        """What was not told so far; None when that is nothing."""
        return self._take() if self._news else None

    def _take(self) -> agent_pb2.Status:
        offset_s = self._clock.wall() - self._clock.monotonic()
        status = agent_pb2.Status(
            accepted_revision=self.accepted_revision,
            applied_revision=self.applied_revision,
            replicas=[
                encode.replica_status(self._statuses[name], lambda moment: moment + offset_s)
                for name in sorted(self._changed)
            ],
            gone=sorted(self._gone),
            events=self._events,
        )
        self._changed.clear()
        self._gone.clear()
        self._events.clear()
        self._news = False
        return status
