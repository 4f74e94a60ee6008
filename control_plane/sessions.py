"""The nodes' sessions: who is connected, and one delta at a time to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

import structlog

from control_plane import decode, metrics
from control_plane.core import delivery
from control_plane.core.delivery import Delivery
from control_plane.observed import Observed, SessionFacts
from control_plane.pacing import Pacing
from control_plane.resources import Publication, Wanted
from control_plane.side_streams import SideStreams
from fleet.errors import LocciError
from fleet.snapshot import snapshot_hash
from locci.v1 import agent_pb2, node_pb2

log = structlog.get_logger()

_OUTBOX_MAX: Final = 16
_BEATS_MISSED: Final = 3.0
_SLICE: Final = 64
"""So many nodes are offered what is new before anything else gets its turn."""
REFUSED_REASON_CHARS_MAX: Final = 2_000

Key = tuple[str, int]


class Session:
    """One stream. Messages for the node wait in `outbox`, which is bounded; a Goodbye is the last."""

    def __init__(self, node: str, hello: agent_pb2.Hello, epoch: int):
        self.node = node
        self.role = hello.role
        self.epoch = epoch
        self.types = tuple(hello.resource_types)
        self.paced = hello.paced
        self.heartbeat_s = 0.0
        """What it was told last of how often to beat."""
        held = {resource.name: resource.version for resource in hello.held}
        matches = snapshot_hash(held.items()) == hello.snapshot_hash
        # A node that never accepted anything is told even that there is nothing: its programs wait for that word.
        known = matches and hello.revision > 0
        self.delivery = Delivery(held=held if known else None, accepted_revision=hello.revision)
        self.outbox: asyncio.Queue[agent_pb2.ControlMessage] = asyncio.Queue(_OUTBOX_MAX)
        self.ended = asyncio.Event()
        self.goodbye: agent_pb2.Goodbye | None = None
        self.offered: Wanted | None = None
        """What the last look at its delivery was about."""

    @property
    def key(self) -> Key:
        """Node and role."""
        return self.node, self.role

    def say(self, message: agent_pb2.ControlMessage) -> None:
        """Queues a message; a node that does not read is sent away."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.end(agent_pb2.GOODBYE_REASON_OVERLOADED, "this node does not read what it is sent", 1.0)

    def end(self, reason: agent_pb2.GoodbyeReason.ValueType, message: str, retry_after_s: float = 0.0) -> None:
        """Ends the session with a Goodbye; the first one counts."""
        if self.goodbye is None:
            self.goodbye = agent_pb2.Goodbye(reason=reason, message=message)
            if retry_after_s:
                self.goodbye.retry_after.CopyFrom(decode.duration(retry_after_s))
            self.ended.set()


class Hub:
    """Every session of this process."""

    def __init__(self, observed: Observed, steady: Callable[[], float], pacing: Pacing):
        self._observed = observed
        self._steady = steady
        self._pacing = pacing
        self._sessions: dict[Key, Session] = {}
        self._publication: Publication | None = None
        self._due: dict[Key, None] = {}
        """The sessions that have not been offered the publication, longest first."""
        self._refused: set[Key] = set()
        """Sessions that have refused what they were offered last."""
        self._none_silent_before = 0.0
        """On the steady clock: no session can have been silent for too long before that."""
        self._offering: asyncio.Task[None] | None = None
        self.trust = agent_pb2.Trust()
        """Whom the fleet trusts."""
        self.side_streams = SideStreams()
        self.closing = False

    def current(self, session: Session) -> bool:
        """Whether the session is still its node's newest; what an older one says is not taken."""
        return self._sessions.get(session.key) is session

    def enter(self, session: Session) -> None:
        """Makes it the node's session; an older one is sent away."""
        before = self._sessions.get(session.key)
        if before is None:
            self._count(session, 1)
        else:
            before.end(agent_pb2.GOODBYE_REASON_SUPERSEDED, f"a newer session of node {session.node} took over")
        self._sessions[session.key] = session
        facts = self._observed.session(*session.key)
        facts.connected = True
        facts.epoch = session.epoch
        facts.holds = session.delivery.held or ()
        facts.accepted_revision = session.delivery.accepted_revision
        facts.refused_reason = ""
        facts.unanswered = False
        facts.takes_faults = "faults" in session.types
        facts.asks_as_clients = "drillclients" in session.types
        facts.takes_images = "images" in session.types
        facts.takes_versions = "agentversions" in session.types
        facts.heartbeat_s = session.heartbeat_s
        self._observed.touched.add(session.node)

    def leave(self, session: Session) -> None:
        """The stream is gone."""
        if self.current(session):
            del self._sessions[session.key]
            self._observed.session(*session.key).connected = False
            self._observed.touched.add(session.node)
            self._count(session, -1)

    def _count(self, session: Session, more: int) -> None:
        label = {node_pb2.NODE_ROLE_EDGE: "edge", node_pb2.NODE_ROLE_DNS: "dns"}.get(session.role)
        if label is not None:
            metrics.SESSIONS.labels(label).inc(more)

    def events_recorded(self, through: Mapping[Key, tuple[str, int]]) -> None:
        """Tells nodes, by node and role, up to which number of which series their events are in the store."""
        for key, (series, number) in through.items():
            if (session := self._sessions.get(key)) is not None:
                recorded = agent_pb2.EventsRecorded(series=series, through=number)
                session.say(agent_pb2.ControlMessage(events_recorded=recorded))

    def ask(self, key: Key, message: agent_pb2.ControlMessage) -> bool:
        """Says something to a node; False when it is not connected."""
        session = self._sessions.get(key)
        if session is not None:
            session.say(message)
        return session is not None

    def announce(self, trust: agent_pb2.Trust) -> None:
        """Tells every node whom the fleet trusts from now on."""
        self.trust = trust
        for session in list(self._sessions.values()):
            session.say(agent_pb2.ControlMessage(trust=trust))

    def end(self, node: str, reason: agent_pb2.GoodbyeReason.ValueType, message: str) -> None:
        """Ends every session of a node."""
        for session in list(self._sessions.values()):
            if session.node == node:
                session.end(reason, message)

    def end_all(self, message: str, retry_after_s: float) -> None:
        """Sends every node away; no new session begins after this."""
        self.closing = True
        for session in list(self._sessions.values()):
            session.end(agent_pb2.GOODBYE_REASON_SHUTDOWN, message, retry_after_s)

    def end_silent(self, silent_s: float) -> None:
        """Ends sessions of which nothing was heard for so long: their connection is dead, or their node is. Looks at
        all of them only when one can have been."""
        now = self._steady()
        if now < self._none_silent_before:
            return
        soonest = now + silent_s
        for session in list(self._sessions.values()):
            facts = self._observed.session(*session.key)
            limit_s = max(silent_s, _BEATS_MISSED * facts.heartbeat_s)
            if facts.heard_at is None:
                continue
            if now - facts.heard_at > limit_s:
                session.end(agent_pb2.GOODBYE_REASON_PROTOCOL, f"nothing was heard for {limit_s:g} s")
            else:
                soonest = min(soonest, facts.heard_at + limit_s)
        self._none_silent_before = soonest

    def welcomed(self, session: Session) -> float:
        """Notes how often the node is to beat, which its welcome says, and tells it."""
        session.heartbeat_s = self._pacing.interval_s(*session.key)
        return session.heartbeat_s

    def beat(self, session: Session, heartbeat: agent_pb2.Heartbeat) -> None:
        """Takes over a heartbeat; from now on the node beats as it was told before that."""
        facts = self._observed.session(*session.key)
        facts.beat(heartbeat)
        if facts.heartbeat_s != session.heartbeat_s:
            facts.heartbeat_s = session.heartbeat_s
            self._observed.touched.add(session.node)
        self._keep_pace(session, facts)

    def _keep_pace(self, session: Session, facts: SessionFacts) -> None:
        """Tells the node how often to beat when that has changed. Of clients of drills more is to be heard."""
        if not session.paced:
            return
        base_s = self._pacing.pace.base_s
        wanted_s = base_s if facts.heartbeat.drill_clients else self._pacing.interval_s(*session.key)
        if wanted_s != session.heartbeat_s:
            session.heartbeat_s = wanted_s
            # Until it is heard by the new interval, it may keep the longer one.
            facts.heartbeat_s = max(facts.heartbeat_s, wanted_s)
            session.say(agent_pb2.ControlMessage(pace=agent_pb2.Pace(heartbeat_interval=decode.duration(wanted_s))))

    def publish(self, publication: Publication) -> None:
        """Offers each node what it is to hold now: some at once, the rest of a large fleet slice by slice, so that
        nothing else waits for all of them."""
        self._publication = publication
        self._due.update(dict.fromkeys(self._sessions))
        self._offer_slice()
        if self._due and self._offering is None:
            self._offering = asyncio.get_running_loop().create_task(self._offer_rest())

    async def _offer_rest(self) -> None:
        try:
            while self._due:
                await asyncio.sleep(0)
                self._offer_slice()
        except LocciError as error:
            # Something that it names is gone already: the next publication, without it, is on its way.
            log.info("publication_outdated", reason=error.message)
        finally:
            self._offering = None

    def _offer_slice(self) -> None:
        for key in list(islice(self._due, _SLICE)):
            del self._due[key]
            session, publication = self._sessions.get(key), self._publication
            if session is not None and publication is not None and publication.knows(session.node):
                wanted = publication.wanted(session.node, session.role, session.types)
                if session.offered is None or session.offered.hash != wanted.hash:
                    self._plan(session, wanted)

    def retry_refused(self) -> None:
        """Offers again what was refused, when its time has come."""
        for key in list(self._refused):
            session = self._sessions.get(key)
            if session is None or session.delivery.refused is None:
                self._refused.discard(key)
            else:
                self.deliver(session)

    def renew_leases(self, session: Session, sequence: int, may_run: Callable[[str], bool]) -> None:
        """Answers a heartbeat with the singletons that the node may go on to run, when it has any."""
        fenced = self._publication.fenced.get(session.node) if self._publication is not None else None
        if fenced and session.role == node_pb2.NODE_ROLE_EDGE and self.current(session):
            names = [name for key, name in fenced if may_run(key)]
            leases = agent_pb2.Leases(sequence=sequence, resources=names)
            session.say(agent_pb2.ControlMessage(leases=leases))

    def deliver(self, session: Session) -> None:
        """Sends the next delta when one is due."""
        publication = self._publication
        if publication is not None and publication.knows(session.node) and self.current(session):
            self._plan(session, publication.wanted(session.node, session.role, session.types))

    def _plan(self, session: Session, wanted: Wanted) -> None:
        assert self._publication is not None
        session.offered, revision = wanted, self._publication.revision
        session.delivery, planned = delivery.plan(session.delivery, wanted.versions, revision, self._steady())
        self._mirror(session)
        if planned is not None:
            # What it is told to run may need its word more often.
            self._keep_pace(session, self._observed.session(*session.key))
            session.say(agent_pb2.ControlMessage(delta=_delta(planned, wanted, revision)))

    def answered(self, session: Session, ack: agent_pb2.Ack) -> None:
        """The node has accepted a delta."""
        metrics.DELTAS.labels("accepted").inc()
        session.delivery = delivery.accepted(session.delivery, ack.nonce)
        self._mirror(session)
        self.deliver(session)

    def refused(self, session: Session, nack: agent_pb2.Nack) -> str:
        """The node has refused a delta; why, in a sentence."""
        metrics.DELTAS.labels("refused").inc()
        problems = (f"{p.name}: {p.message}" if p.name else p.message for p in nack.problems)
        reason = ("; ".join(problems) or "the node gave no reason")[:REFUSED_REASON_CHARS_MAX]
        session.delivery = delivery.refused(session.delivery, nack.nonce, reason, nack.resync, self._steady())
        self._refused.add(session.key)
        self._mirror(session)
        self.deliver(session)
        return reason

    def _mirror(self, session: Session) -> SessionFacts:
        facts = self._observed.session(*session.key)
        facts.sent_revision = session.delivery.sent_revision
        facts.accepted_revision = session.delivery.accepted_revision
        facts.refused_reason = session.delivery.refused_reason
        facts.unanswered = session.delivery.in_flight is not None
        facts.holds = session.delivery.held or ()
        return facts


def _delta(planned: delivery.DeltaPlan, wanted: Wanted, revision: int) -> agent_pb2.Delta:
    return agent_pb2.Delta(
        nonce=planned.nonce,
        revision=revision,
        resources=[wanted.resources[name] for name in planned.changed],
        removed=planned.removed,
        complete=planned.complete,
        snapshot_hash=wanted.hash,
    )
