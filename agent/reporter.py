"""What is still to be told to the control plane: the newest word on each replica, coalesced while nobody listens."""

from __future__ import annotations

from agent import encode
from agent.core.messages import RecordEvent, ReportStatus
from agent.core.model import ReplicaStatus
from agent.outbox import Outbox
from fleet.clock import Clock
from locci.v1 import agent_pb2, node_pb2


class Reporter:
    """Takes reports at any time; gives out what changed since it was asked last."""

    def __init__(self, clock: Clock, outbox: Outbox):
        self._clock = clock
        self._statuses: dict[str, ReplicaStatus] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self.outbox = outbox
        self._conditions: list[node_pb2.HostCondition] = []
        self._conditions_news = False
        self._agent_upgrade = node_pb2.AgentUpgrade()
        self._agent_upgrade_news = False
        self._news = False
        self.accepted_revision = 0
        self.applied_revision = 0
        self.edge_revision = 0

    def report(self, report: ReportStatus) -> None:
        """What changed on the node."""
        self.accepted_revision = report.accepted_revision
        self.applied_revision = report.applied_revision
        self.edge_revision = report.edge_revision
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
        """What happened on the node; it is told until the control plane has recorded it."""
        self.outbox.add(encode.event(record, self._clock.wall()))
        self._news = True

    def conditions(self, conditions: list[node_pb2.HostCondition]) -> None:
        """The host's conditions, of which one changed."""
        self._conditions, self._conditions_news, self._news = conditions, True, True

    def agent_upgrade(self, upgrade: node_pb2.AgentUpgrade) -> bool:
        """What became of the version that is wanted here; whether that is news."""
        if upgrade == self._agent_upgrade:
            return False
        self._agent_upgrade, self._agent_upgrade_news, self._news = upgrade, True, True
        return True

    def complete(self) -> agent_pb2.Status:
        """Everything there is to say."""
        self._changed = set(self._statuses)
        self._gone.clear()
        self.outbox.session_began()
        self._conditions_news = self._agent_upgrade_news = True
        status = self._take()
        status.complete = True
        return status

    def change(self) -> agent_pb2.Status | None:
        """What was not told so far; None when that is nothing."""
        return self._take() if self._news or self.outbox.untold else None

    def _take(self) -> agent_pb2.Status:
        offset_s = self._clock.wall() - self._clock.monotonic()
        status = agent_pb2.Status(
            accepted_revision=self.accepted_revision,
            applied_revision=self.applied_revision,
            edge_revision=self.edge_revision,
            replicas=[
                encode.replica_status(self._statuses[name], lambda moment: moment + offset_s)
                for name in sorted(self._changed)
            ],
            gone=sorted(self._gone),
            conditions=self._conditions if self._conditions_news else (),
        )
        if self._agent_upgrade_news and self._agent_upgrade.version:
            status.agent_upgrade.CopyFrom(self._agent_upgrade)
        self.outbox.tell(status)
        self._changed.clear()
        self._gone.clear()
        self._conditions_news = self._agent_upgrade_news = False
        self._news = False
        return status
