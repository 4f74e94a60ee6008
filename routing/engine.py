"""The shell around the cores: takes tables, probes and the feed's state in, swaps the responder, tells what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import structlog

from fleet.clock import Clock
from routing.adapters import signed_queries
from routing.adapters.hot_answers import HotAnswers
from routing.adapters.refusals import Keys
from routing.core import failover
from routing.core.answer import Manners, Responder
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
from routing.core.geo import GeoLookup, PlaceMap, no_geo
from routing.core.model import Policy, RoutingTable, TargetKey
from routing.core.overrides import Orders, orders_at
from routing.core.rate_limit import Admission, RateLimiter
from routing.core.zone import Names, compile_names

log = structlog.get_logger()

Listener = Callable[[Command], None]


class Engine:
    """Everything that answering needs, on the event loop's thread. It is the prober's sink."""

    def __init__(
        self,
        brain: Failover,
        clock: Clock,
        remembered: Mapping[TargetKey, bool],
        manners: Manners | None = None,
        limiter: RateLimiter | None = None,
        hot: HotAnswers | None = None,
    ):
        self.brain = brain
        self.manners = manners or Manners()
        self.limiter = limiter or RateLimiter(0)
        self.keys: Keys = {}
        """Whose signed queries get signed answers."""
        self.hot = hot
        if hot is not None:
            jar = self.manners.jar
            hot.take_policy(self.limiter.per_second, None if jar is None else jar.secrets[0])
        self._clock = clock
        self._remembered = remembered
        self._listeners: list[Listener] = []
        self._lookup: GeoLookup = no_geo
        self._map_key: object = None
        self.table = RoutingTable()
        self._names: Names = compile_names(self.table)
        self._rotation: frozenset[TargetKey] = frozenset()
        self.unsteady: frozenset[str] = frozenset()
        """Regions whose answers are kept only for a moment."""
        self.orders = Orders()
        """What operators have ordered and still holds."""
        self.places = PlaceMap({}, no_geo)
        self.responder = Responder(self._names, self.places, {}, self._rotation, self.manners)
        self.udp_rcodes = [0] * 16
        self.tcp_rcodes = [0] * 16
        self.silent = 0
        self.probes = {"good": 0, "silent": 0, "bad": 0, "unclear": 0}
        self.swaps = 0
        if hot is not None:
            hot.forget(self.places)

    def on_command(self, listener: Listener) -> None:
        """`listener` is told each command of the brain, after answers follow it."""
        self._listeners.append(listener)

    def respond(self, data: bytes, source: bytes, tcp: bool) -> bytes | None:
        """The answer to a query, limited and counted."""
        if signed_queries.TSIG in data:
            answer = signed_queries.answer(data, source, tcp, self.keys, self.responder.respond, self._clock.wall())
        else:
            answer = self.responder.respond(data, source, tcp)
        if answer is not None and not tcp and self.limiter.per_second:
            answer = self._limited(data, source, answer)
        if answer is None:
            self.silent += 1
        elif tcp:
            self.tcp_rcodes[answer[3] & 15] += 1
        else:
            self.udp_rcodes[answer[3] & 15] += 1
        return answer

    def respond_and_teach(self, data: bytes, source: bytes) -> bytes | None:
        """The answer over UDP to a query that the hot loop has left; it will know the like of it."""
        answer = self.respond(data, source, False)
        if self.hot is not None and answer is not None and signed_queries.TSIG not in data:
            lesson = self.responder.lesson(data, source)
            if lesson is not None:
                self.hot.learn(lesson)
        return answer

    def respond_limited(self, data: bytes, source: bytes) -> bytes | None:
        """What goes out instead of an answer that the hot loop finds one too many for its network."""
        admission = self.limiter.exceed(source)
        if admission is Admission.SEND or self.responder.has_our_cookie(data, source):
            answer = self.responder.respond(data, source)
        else:
            answer = self.responder.cut_short(data, source) if admission is Admission.SLIP else None
        if answer is None:
            self.silent += 1
        else:
            self.udp_rcodes[answer[3] & 15] += 1
        return answer

    def _limited(self, data: bytes, source: bytes, answer: bytes) -> bytes | None:
        """The answer, unless its network has had too many like it: then less, or nothing."""
        rcode = answer[3] & 15
        kind = bytes((rcode,)) if rcode else data[12 : data.find(0, 12)].lower()
        admission = self.limiter.admit(source, kind)
        if admission is Admission.SEND or self.responder.has_our_cookie(data, source):
            return answer
        return self.responder.cut_short(data, source) if admission is Admission.SLIP else None

    def take_time(self) -> None:
        """Cookies and limits go by this second; the shell calls it several times a second."""
        self.limiter.now_s = int(self._clock.monotonic())
        settled = self.brain.unsteady(self._clock.monotonic()) != self.unsteady
        if settled or orders_at(self.table.regions, self._clock.wall()) != self.orders:
            self._swap()
        signer = self.manners.signer
        if signer is not None:
            period, signer.now_s = signer.period, int(self._clock.wall())
            if self.hot is not None and signer.period != period:
                self.hot.forget(self.places)
        if self.manners.jar is not None:
            self.manners.jar.now_s = int(self._clock.wall())
        if self.hot is not None:
            jar = self.manners.jar
            self.hot.take_time(self.limiter.now_s, 0 if jar is None else jar.time_s)

    def all_udp_rcodes(self) -> list[int]:
        """Answers over UDP by response code, those of the hot loop too."""
        learnt = self.hot.rcodes if self.hot is not None else [0] * 16
        return [own + other for own, other in zip(self.udp_rcodes, learnt, strict=True)]

    @property
    def targets(self) -> list[Target]:
        """What is to be probed."""
        return [state.target for state in self.brain.targets.values()]

    def take_table(self, table: RoutingTable) -> None:
        """Answers by `table` from now on."""
        self.table = table
        self._names = compile_names(table)
        self._handle(TableAccepted(table, self._remembered))
        self._swap()

    def take_feed(self, alive: bool) -> None:
        """The stream to the control plane stands or fell."""
        if alive != self.brain.feed_alive:
            self._handle(FeedChanged(alive))

    def take_geo(self, lookup: GeoLookup) -> None:
        """Places clients by `lookup` from now on."""
        self._lookup = lookup
        self._swap()

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

    def _swap(self) -> None:
        """One assignment: a query is answered by the old responder or by the new one."""
        self._rotation = self.brain.rotation()
        regions = self.table.regions
        self.orders = orders_at(regions, self._clock.wall())
        by_country = any(hostname.policy is Policy.GEO for hostname in self._names.classes)
        places = tuple((r.id, r.latitude, r.longitude, r.networks, r.bias_km) for r in regions.values())
        key = self._lookup, by_country, places
        if key != self._map_key:
            self.places, self._map_key = PlaceMap(regions, self._lookup, by_country), key
        self.unsteady = self.brain.unsteady(self._clock.monotonic())
        self.responder = Responder(
            self._names, self.places, regions, self._rotation, self.manners, self.orders, self.unsteady
        )
        if self.hot is not None:
            self.hot.forget(self.places)
        self.swaps += 1


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
