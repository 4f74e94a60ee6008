"""From what is known of the fleet to answers: the table, the map of places and what is in rotation make a responder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from fleet.clock import Clock
from routing.adapters import signed_queries
from routing.adapters.hot_answers import HotAnswers
from routing.adapters.refusals import Keys
from routing.core import wire
from routing.core.additional import with_addresses
from routing.core.answer import NO_NAME, Manners, Responder
from routing.core.geo import Detail, GeoLookup, PlaceMap, no_geo
from routing.core.model import Policy, RoutingTable, TargetKey
from routing.core.overrides import Orders, orders_at, with_returning
from routing.core.rate_limit import Admission, RateLimiter
from routing.core.recall import Slots
from routing.core.wire import Rcode
from routing.core.zone import Names, compile_names

log = structlog.get_logger()

_SEND: Final = Admission.SEND


@dataclass(frozen=True, slots=True)
class Standing:
    """What a brain has decided: the targets in rotation, the regions that come or go, and the nodes that have come
    back, with how many of a hundred clients are still sent elsewhere."""

    rotation: frozenset[TargetKey] = frozenset()
    unsteady: frozenset[str] = frozenset()
    returning: tuple[tuple[str, int], ...] = ()


class Answering(ABC):
    """Everything that answering needs, on the event loop's thread; who decides is the business of those that follow."""

    def __init__(
        self,
        clock: Clock,
        manners: Manners | None = None,
        limiter: RateLimiter | None = None,
        hot: HotAnswers | None = None,
    ):
        self.manners = manners or Manners()
        self.limiter = limiter or RateLimiter(0)
        self.keys: Keys = {}
        """Whose signed queries get signed answers."""
        self.hot = hot
        self._clock = clock
        self.limit(self.limiter.per_second)
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
        self.broken = 0
        """Queries that found an error of this program."""
        self.swaps = 0
        self.swapped: Callable[[], None] = lambda: None
        """Called after answers have changed."""
        if hot is not None:
            hot.forget(self.places)

    @abstractmethod
    def standing(self) -> Standing:
        """What is decided now."""

    def take_names(self, table: RoutingTable) -> None:
        """Answers by `table` from the next change of what is decided on."""
        self.table = table
        self._names = with_addresses(compile_names(table))

    def limit(self, per_second: int) -> None:
        """Lets so many like answers a second go to one network, 0 for no limit."""
        self.limiter.per_second = per_second
        if self.hot is not None:
            jar = self.manners.jar
            self.hot.take_policy(per_second, None if jar is None else jar.secrets[0])

    def respond(self, data: bytes, source: bytes, tcp: bool) -> bytes | None:
        """The answer to a query, limited and counted; SERVFAIL when it brings an error of this program to light."""
        try:
            return self._respond(data, source, tcp)
        except Exception:
            return self._broken(data)

    def _broken(self, data: bytes) -> bytes:
        """Called within an exception: one query must not cost others their answers."""
        self.broken += 1
        # Each time that there are twice as many: who sends such queries is not to fill the log.
        if self.broken & (self.broken - 1) == 0:
            log.exception("query_not_answered", query=data[:512].hex(), times=self.broken)
        self.udp_rcodes[Rcode.SERVFAIL] += 1
        return data[:2] + wire.head(wire.QR | data[2] << 8 & 0x7900 | Rcode.SERVFAIL, (0, 0, 0, 0))

    def _respond(self, data: bytes, source: bytes, tcp: bool) -> bytes | None:
        if not tcp and self.limiter.is_spent(source, NO_NAME) and not self._may_be_sent(data, source):
            # Not looked for, let alone signed, only to be thrown away.
            admission = self.limiter.admit(source, NO_NAME)
            if admission is not _SEND:
                return self._counted(self.responder.cut_short(data, source) if admission is Admission.SLIP else None)
        if signed_queries.TSIG in data:
            answer = signed_queries.answer(data, source, tcp, self.keys, self.responder.respond, self._clock.wall())
        else:
            answer = self.responder.respond(data, source, tcp)
            if self.hot is None and answer is not None and not tcp:
                self.responder.remember(data, source)
        if tcp:
            if answer is not None:
                self.tcp_rcodes[answer[3] & 15] += 1
            else:
                self.silent += 1
            return answer
        if answer is not None and self.limiter.per_second:
            kind = bytes((answer[3] & 15,)) if answer[3] & 15 else self.responder.kind_of(data)
            admission = self.limiter.admit(source, kind)
            if admission is not _SEND:
                answer = self._less(data, source, answer, admission)
        return self._counted(answer)

    def recall(self, slots: Slots, count: int) -> Sequence[int]:
        """Answers what it can of a batch by what was answered before; which slots are left."""
        left = self.responder.recall(slots, count, self.limiter)
        # What is recalled is NOERROR.
        self.udp_rcodes[0] += count - len(left)
        return left

    def _counted(self, answer: bytes | None) -> bytes | None:
        """An answer over UDP, or silence, counted."""
        if answer is None:
            self.silent += 1
        else:
            self.udp_rcodes[answer[3] & 15] += 1
        return answer

    def respond_and_teach(self, data: bytes, source: bytes) -> bytes | None:
        """The answer over UDP to a query that the hot loop has left; it will know the like of it."""
        try:
            answer = self._respond(data, source, False)
            if self.hot is not None and answer is not None and signed_queries.TSIG not in data:
                lesson = self.responder.lesson(data, source)
                if lesson is not None:
                    self.hot.learn(lesson)
        except Exception:
            return self._broken(data)
        return answer

    def respond_limited(self, data: bytes, source: bytes) -> bytes | None:
        """What goes out instead of an answer that the hot loop finds one too many for its network."""
        admission = self.limiter.exceed(source)
        if admission is Admission.SEND or self.responder.has_our_cookie(data, source):
            return self._counted(self.responder.respond(data, source))
        return self._counted(self.responder.cut_short(data, source) if admission is Admission.SLIP else None)

    def _may_be_sent(self, data: bytes, source: bytes) -> bool:
        """Whether a query is for a name that exists, or proves that its address is real."""
        return self.responder.kind_of(data) != NO_NAME or self.responder.has_our_cookie(data, source)

    def _less(self, data: bytes, source: bytes, answer: bytes, admission: Admission) -> bytes | None:
        if self.responder.has_our_cookie(data, source):
            return answer
        return self.responder.cut_short(data, source) if admission is Admission.SLIP else None

    def take_time(self) -> None:
        """Cookies and limits go by this second; the shell calls it several times a second."""
        self.limiter.now_s = int(self._clock.monotonic())
        standing = self.standing()
        if standing.unsteady != self.unsteady or self._orders(standing) != self.orders:
            self._swap()
        signer = self.manners.signer
        if signer is not None:
            period, signer.now_s = signer.period, int(self._clock.wall())
            if signer.period != period:
                self.responder.forget()
                if self.hot is not None:
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

    def take_geo(self, lookup: GeoLookup) -> None:
        """Places clients by `lookup` from now on."""
        self._lookup = lookup
        self._swap()

    def _detail(self) -> Detail:
        """What the map must tell apart for the policies in use."""
        classes = self._names.classes
        latencies = self.table.latencies if any(hostname.uses(Policy.LATENCY) for hostname in classes) else {}
        return Detail(
            by_country=any(hostname.uses(Policy.GEO) for hostname in classes),
            by_distance=any(Policy.NEAREST in hostname.filters for hostname in classes),
            latencies=tuple(part for _, part in sorted(latencies.items())),
        )

    def _orders(self, standing: Standing) -> Orders:
        return with_returning(orders_at(self.table.regions, self._clock.wall()), dict(standing.returning))

    def _swap(self) -> None:
        """One assignment: a query is answered by the old responder or by the new one."""
        standing = self.standing()
        self._rotation, self.unsteady = standing.rotation, standing.unsteady
        regions = self.table.regions
        self.orders = self._orders(standing)
        detail = self._detail()
        places = tuple((r.id, r.latitude, r.longitude, r.networks, r.bias_km) for r in regions.values())
        key = self._lookup, detail, places
        if key != self._map_key:
            self.places, self._map_key = PlaceMap(regions, self._lookup, detail), key
        self.responder = Responder(
            self._names, self.places, regions, self._rotation, self.manners, self.orders, self.unsteady
        )
        if self.hot is not None:
            self.hot.forget(self.places)
        self.swaps += 1
        self.swapped()
