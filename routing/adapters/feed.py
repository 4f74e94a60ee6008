"""What `locci-dns` says to and hears from the control plane: the consumer behind its node link."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from fleet import telemetry
from fleet.clock import Clock
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, event_pb2
from routing.adapters import host_facts
from routing.adapters.table import TableReader
from routing.core.evidence import Probed
from routing.core.failover import ChangeRotation, Command, Failover, ReportBrake, ReportEvidence
from routing.core.model import RoutingTable

log = structlog.get_logger()

_EVENTS_MAX: Final = 256


class Feed:
    """A `SnapshotConsumer`. Events that cannot be said now are kept, the newest 256 of them."""

    def __init__(self, brain: Failover, clock: Clock, state_dir: Path, accept: Callable[[RoutingTable], None]):
        self._brain = brain
        self._clock = clock
        self._state_dir = state_dir
        self._accept = accept
        self._reader = TableReader()
        self._events: deque[event_pb2.Event] = deque(maxlen=_EVENTS_MAX)
        self._revision = 0
        self.snapshot = Snapshot()
        """What was accepted last."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to say."""

    def problems(self, snapshot: Snapshot) -> list[agent_pb2.ResourceProblem]:
        """What cannot be served, resource by resource."""
        return self._reader.read(snapshot)[1]

    def accepted(self, snapshot: Snapshot) -> None:
        """Answers follow. Of a snapshot from disk that an older program had accepted, what can be served is."""
        table, problems = self._reader.read(snapshot)
        for problem in problems:
            log.error("resource_ignored", resource=problem.name, **{telemetry.REASON: problem.message})
        self._revision = snapshot.revision
        self.snapshot = snapshot
        self._accept(table)

    def complete_status(self) -> agent_pb2.Status:
        """Everything: the revision and what happened meanwhile."""
        status = agent_pb2.Status(
            accepted_revision=self._revision, applied_revision=self._revision, complete=True, events=self._events
        )
        self._events.clear()
        return status

    def status_change(self) -> agent_pb2.Status | None:
        """The same, without saying that it is everything."""
        status = self.complete_status()
        status.complete = False
        return status

    def heartbeat(self) -> agent_pb2.Heartbeat:
        """How busy the host is, and how fast its probes would prove a cut."""
        beat = host_facts.heartbeat(self._state_dir)
        beat.cut_proven_within.FromMilliseconds(round(1000 * self._brain.cut_proven_within_s))
        return beat

    def evidence(self) -> agent_pb2.Evidence | None:
        """What own probes find, by node; None before they have found anything."""
        by_node: dict[str, list[tuple[Probed, bool]]] = {}
        for state in self._brain.targets.values():
            if state.probed.proven:
                by_node.setdefault(state.target.node, []).append((state.probed, state.verdict.in_rotation))
        evidence = agent_pb2.Evidence()
        for node, found in sorted(by_node.items()):
            # A node with both families is in order when one of them is: the other may be missing here.
            probed = min((probed for probed, _ in found), key=lambda p: p.weight)
            result = evidence.results.add(
                endpoint=f"nodes/{node}",
                healthy=not probed.suspect,
                reason=probed.reason if probed.suspect else "",
                in_rotation=any(in_rotation for _, in_rotation in found),
            )
            since = probed.failing_since if probed.suspect else probed.healthy_since
            result.since.FromMilliseconds(int(1000 * self._wall(since)))
            result.round_trip.FromMicroseconds(int(1e6 * probed.round_trip_s))
        return evidence if evidence.results else None

    def on_command(self, command: Command) -> None:
        """Turns what the brain decided into events and evidence."""
        match command:
            case ChangeRotation(target, verdict, region_changed):
                details = {
                    "family": f"ipv{target.family.value}",
                    "rule": verdict.rule.value,
                    "evidence": verdict.evidence,
                    "address": target.address,
                }
                outcome = "Restored" if verdict.in_rotation else "Withdrawn"
                place = f"nodes/{target.node}", f"regions/{target.region}"
                self._say(f"Endpoint{outcome}", verdict.in_rotation, place, verdict.evidence, details)
                if region_changed:
                    self._say(f"Region{outcome}", verdict.in_rotation, place[::-1], verdict.evidence, details)
            case ReportBrake(family, state):
                kind = "BrakeApplied" if state.applied else "BrakeReleased"
                message = f"own probes find {', '.join(state.dark) or 'nothing'} dark"
                details = {"family": f"ipv{family.value}", "dark": ",".join(state.dark), "seen": ",".join(state.seen)}
                self._say(kind, not state.applied, tuple(f"regions/{r}" for r in state.dark), message, details)
            case ReportEvidence():
                pass
            case _:
                return
        self.wake()

    def _say(self, kind: str, good: bool, subjects: tuple[str, ...], evidence: str, details: dict[str, str]) -> None:
        subject = subjects[0] if subjects else "all regions"
        message = f"{_SENTENCES[kind].format(subject)}: {evidence}"
        severity = event_pb2.SEVERITY_INFO if good else event_pb2.SEVERITY_WARNING
        event = event_pb2.Event(type=kind, severity=severity, subjects=subjects, message=message, details=details)
        event.time.FromMilliseconds(int(1000 * self._clock.wall()))
        self._events.append(event)

    def _wall(self, monotonic: float | None) -> float:
        now = self._clock.monotonic()
        return self._clock.wall() - (now - (now if monotonic is None else monotonic))


_SENTENCES: Final = {
    "EndpointWithdrawn": "{} is out of DNS answers",
    "EndpointRestored": "{} is in DNS answers again",
    "RegionWithdrawn": "{} is out of DNS answers",
    "RegionRestored": "{} is in DNS answers again",
    "BrakeApplied": "this DNS server suspects itself and withdraws nothing on its own probes",
    "BrakeReleased": "this DNS server trusts its own probes again",
}
