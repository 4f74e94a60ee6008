"""The brain of a DNS server that probes edges over a simulated network, in virtual time.

A probe is modelled as TCP sends it: a handshake that is tried again after 1 s, a request that is tried again after
0.2, 0.4 and 0.8 s, each packet lost with the same probability in each direction.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.vantage import PATIENCE_S, PROBE_PAUSE_S, PROBES, Sight, probe_timeout_s
from routing.core.evidence import Target
from routing.core.failover import (
    ChangeRotation,
    Command,
    Event,
    Failover,
    LookAround,
    ProbeFailed,
    ProbeLaunched,
    ProbeSucceeded,
)
from routing.core.model import ForeignEvidence, TargetKey
from routing.core.verdict import Verdict
from tests.simulation.timeline import Timeline

LISTEN_S = 2.0
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Path:
    """The way from a prober to a target now: whether packets travel there and back, how long and how safely they do,
    and whether what is there refuses."""

    whole: bool
    round_trip_s: float = 0.001
    loss: float = 0.0
    refuses: bool = False


@dataclass
class Server:
    """A DNS server: the brain, what it has under way, what it did."""

    node: str
    region: str
    brain: Failover
    under_way: dict[TargetKey, dict[int, float]] = field(default_factory=dict)
    scheduled: dict[TargetKey, float] = field(default_factory=dict)
    log: list[tuple[float, TargetKey, Verdict]] = field(default_factory=list)
    brakes: list[tuple[float, bool]] = field(default_factory=list)
    evidence: dict[str, ForeignEvidence] = field(default_factory=dict)


def answer_s(path: Path, rng: random.Random) -> float:
    """When a probe launched now is answered; infinity for never."""
    arrives = (1 - path.loss) ** 2
    if not path.whole:
        return NEVER
    for handshake_s in (0.0, 1.0):
        if rng.random() < arrives:
            if path.refuses:
                return handshake_s + path.round_trip_s
            for request_s in (0.0, 0.2, 0.6, 1.4):
                if rng.random() < arrives:
                    return handshake_s + request_s + 2 * path.round_trip_s
            return NEVER
    return NEVER


def look(path: Path, sight: Sight, rng: random.Random) -> tuple[float, str]:
    """An edge's look at another region's, begun now: how long it takes, and why the other is not in order."""
    timeout_s = probe_timeout_s(sight)
    for number in range(PROBES):
        takes_s = answer_s(path, rng)
        if takes_s <= timeout_s:
            launched_s = (PATIENCE_S + (number - 1) * PROBE_PAUSE_S) if number else 0.0
            return launched_s + takes_s, "connection refused" if path.refuses else ""
    return PATIENCE_S + (PROBES - 1) * PROBE_PAUSE_S + timeout_s, "no answer"


class Probing:
    """Launches probes when the brains of servers want them, and tells them what came of each."""

    def __init__(
        self,
        time: Timeline,
        rng: random.Random,
        path: Callable[[Server, Target], Path],
        execute: Callable[[Server, Command], None],
        settled: Callable[[Server], None],
    ):
        """`path` is asked when a probe is launched and when it is answered; `settled` is called when a verdict, or what
        there is to judge, may have changed."""
        self._time, self._rng = time, rng
        self._path, self._execute, self._settled = path, execute, settled
        self._order = itertools.count()

    def handle(self, server: Server, event: Event) -> None:
        """Lets the brain take an event in, and does what follows."""
        commands = server.brain.handle(event, self._time.now)
        for command in commands:
            self._execute(server, command)
        if isinstance(event, ProbeLaunched | ProbeSucceeded | ProbeFailed):
            # One probe changes when its own target is due; an alarm and a verdict that of all.
            of_all = any(isinstance(command, LookAround | ChangeRotation) for command in commands)
            keys = tuple(server.brain.targets) if of_all else (event.key,)
        else:
            of_all, keys = True, tuple(server.brain.targets)
        for key in keys:
            self._schedule(server, key)
        if of_all:
            self._settled(server)

    def forget(self, server: Server) -> None:
        """The server has ended: nothing of what it had under way comes back."""
        server.under_way, server.scheduled = {}, {}

    def _schedule(self, server: Server, key: TargetKey) -> None:
        if key not in server.brain.targets:
            return
        due = max(self._time.now, server.brain.due_at(key))
        if server.scheduled.get(key, NEVER) > due:
            server.scheduled[key] = due
            brain = server.brain
            self._time.at(due, lambda: self._due(server, brain, key, due))

    def _due(self, server: Server, brain: Failover, key: TargetKey, due: float) -> None:
        if server.brain is not brain or server.scheduled.get(key) != due:
            return
        del server.scheduled[key]
        if key in brain.targets and brain.due_at(key) <= self._time.now:
            self._probe(server, key)
        self._schedule(server, key)

    def _probe(self, server: Server, key: TargetKey) -> None:
        brain, state = server.brain, server.brain.targets[key]
        attempt, launched = next(self._order), self._time.now
        server.under_way.setdefault(key, {})[attempt] = launched
        timeout_s = brain.cadence.probe_timeout_s(state.probed)
        self.handle(server, ProbeLaunched(key))
        path = self._path(server, state.target)
        takes_s = answer_s(path, self._rng)

        def there() -> bool:
            return server.brain is brain and attempt in server.under_way.get(key, ())

        def answered() -> None:
            if not there() or not self._path(server, state.target).whole:
                return
            if path.refuses:
                del server.under_way[key][attempt]
                self.handle(server, ProbeFailed(key, launched, False, "connection refused"))
            else:
                server.under_way[key].clear()
                self.handle(server, ProbeSucceeded(key, self._time.now - launched))

        def timed_out() -> None:
            if there():
                self.handle(server, ProbeFailed(key, launched, True, "no answer"))

        if takes_s <= LISTEN_S:
            self._time.at(launched + takes_s, answered)
        if takes_s > timeout_s:
            self._time.at(launched + timeout_s, timed_out)
