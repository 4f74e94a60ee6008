"""Ways between regions and the control plane: each direction of each may be cut, lose packets and be slow."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from tests.simulation.timeline import Timeline

CONTROL = "control"
_RETRY_S = 0.2
_ROUND_TRIPS_S = {frozenset(("eu", "us")): 0.09, frozenset(("eu", "ap")): 0.22, frozenset(("us", "ap")): 0.16}


class Network:
    """Who reaches whom now. `cuts` are ordered pairs of places; `silenced` are hosts that neither send nor hear, `mute`
    and `deaf` those that do not do the one or the other."""

    def __init__(self, places: Collection[str]):
        self.places = (*places, CONTROL)
        self.cuts: set[tuple[str, str]] = set()
        self.mute: set[str] = set()
        self.deaf: set[str] = set()
        self.loss = 0.0
        self.slow_s: dict[str, float] = {}
        """By host: so much later its packets arrive at most, each way."""

    def isolate(self, place: str) -> None:
        """Cuts every way to and from a region."""
        self.sever(place, [other for other in self.places if other != place])

    def sever(self, place: str, others: Iterable[str], *, one_way: bool = False) -> None:
        """Cuts what a place sends to others, and what it hears of them unless `one_way`."""
        for other in others:
            self.cuts |= {(place, other)} if one_way else {(place, other), (other, place)}

    def heal(self) -> None:
        """All ways are as they should be; what drills do on hosts goes on."""
        self.cuts.clear()
        self.slow_s.clear()
        self.loss = 0.0

    def passes(self, sender: str, of: str, listener: str, at: str) -> bool:
        """Whether a packet of host `sender` in place `of` arrives at host `listener` in place `at`."""
        return (of, at) not in self.cuts and sender not in self.mute and listener not in self.deaf

    def whole(self, one: str, of: str, other: str, at: str) -> bool:
        """Whether packets travel both ways."""
        return self.passes(one, of, other, at) and self.passes(other, at, one, of)

    def round_trip_s(self, one: str, other: str) -> float:
        """Between two places, with nothing in the way."""
        return 0.001 if one == other else _ROUND_TRIPS_S.get(frozenset((one, other)), 0.06)

    @property
    def cut_pairs(self) -> int:
        """How many directions are cut of all there are."""
        return len(self.cuts & set(permutations(self.places, 2)))


@dataclass
class Stream:
    """One direction of a connection, as TCP has it: in order, later after a loss, held back while it is cut."""

    time: Timeline
    rng: random.Random
    network: Network
    passes: Callable[[], bool]
    delay_s: Callable[[], float]
    deliver: Callable[[Any], None]
    queue: deque[tuple[float, Any]] = field(default_factory=deque)
    closed: bool = False

    def send(self, message: Any) -> None:
        """It arrives, unless the stream is closed before."""
        lost_s = 0.0
        while self.rng.random() < self.network.loss:
            lost_s += _RETRY_S
        due = self.time.now + self.delay_s() + lost_s
        due = max(due, self.queue[-1][0]) if self.queue else due
        self.queue.append((due, message))
        if len(self.queue) == 1:
            self.time.at(due, self._arrive)

    def close(self) -> None:
        """What is under way is lost."""
        self.closed = True
        self.queue.clear()

    def _arrive(self) -> None:
        if self.closed or not self.queue:
            return
        if not self.passes():
            self.time.at(self.time.now + _RETRY_S, self._arrive)
            return
        while self.queue and self.queue[0][0] <= self.time.now and not self.closed:
            self.deliver(self.queue.popleft()[1])
        if self.queue and not self.closed:
            self.time.at(self.queue[0][0], self._arrive)
