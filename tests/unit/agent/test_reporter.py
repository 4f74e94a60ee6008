"""What is told to the control plane, and when."""

from __future__ import annotations

from agent.core.messages import RecordEvent, ReportStatus
from agent.core.model import Phase, ReplicaStatus
from agent.outbox import Outbox
from agent.reporter import Reporter
from locci.v1 import agent_pb2, event_pb2, node_pb2, replica_pb2
from tests.fakes.clock import ManualClock


def status(name: str, ready: bool = False) -> ReplicaStatus:
    return ReplicaStatus(f"replicas/{name}", "v1", Phase.RUNNING, ready=ready, since=5.0)


def test_only_what_changed_is_told_and_only_once() -> None:
    reporter = Reporter(ManualClock(), Outbox())
    assert reporter.change() is None
    reporter.report(ReportStatus(3, 2, (status("a"), status("b")), ()))
    change = reporter.change()
    assert change is not None
    assert [r.resource for r in change.replicas] == ["replicas/a", "replicas/b"]
    assert (change.accepted_revision, change.applied_revision, change.complete) == (3, 2, False)
    assert change.replicas[0].phase == replica_pb2.REPLICA_PHASE_RUNNING
    assert change.replicas[0].since.ToSeconds() == 1_750_000_005
    assert reporter.change() is None


def test_what_happens_while_nobody_listens_is_coalesced() -> None:
    reporter = Reporter(ManualClock(), Outbox())
    reporter.report(ReportStatus(1, 0, (status("a"), status("b")), ()))
    reporter.report(ReportStatus(1, 0, (status("a", ready=True),), ("replicas/b",)))
    change = reporter.change()
    assert change is not None
    assert [(r.resource, r.ready) for r in change.replicas] == [("replicas/a", True)]
    assert list(change.gone) == ["replicas/b"]


def test_a_complete_status_has_everything() -> None:
    reporter = Reporter(ManualClock(), Outbox())
    reporter.report(ReportStatus(1, 1, (status("a"), status("b")), ()))
    reporter.change()
    reporter.report(ReportStatus(2, 1, (), ("replicas/b",)))
    complete = reporter.complete()
    assert complete.complete
    assert [r.resource for r in complete.replicas] == ["replicas/a"]
    assert list(complete.gone) == []
    assert reporter.change() is None


def test_events_are_told_again_in_each_session_until_they_are_recorded() -> None:
    reporter = Reporter(ManualClock(), Outbox())
    reporter.record(RecordEvent("ReplicaCrashed", "warning", ("apps/web",), "one", {}))
    told = reporter.complete()
    assert [event.message for event in told.events] == ["one"]
    assert told.events[0].severity == event_pb2.SEVERITY_WARNING
    assert reporter.change() is None
    assert reporter.complete().events == told.events
    recorded = agent_pb2.EventsRecorded(series=told.events_series, through=told.events_through)
    reporter.outbox.recorded(recorded)
    assert list(reporter.complete().events) == []


def test_what_became_of_a_wanted_version_is_told_when_it_changes_and_in_each_session() -> None:
    reporter = Reporter(ManualClock(), Outbox())
    tried = node_pb2.AgentUpgrade(version="0.2.0", state=node_pb2.AgentUpgrade.STATE_TRIED)
    assert reporter.agent_upgrade(tried)
    assert not reporter.agent_upgrade(tried)
    change = reporter.change()
    assert change is not None
    assert change.agent_upgrade == tried
    reporter.report(ReportStatus(1, 1, (status("a"),), ()))
    change = reporter.change()
    assert change is not None
    assert not change.HasField("agent_upgrade")
    assert reporter.complete().agent_upgrade == tried
