"""Leadership over a lease, in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from control_plane.core.leadership import (
    MARGIN,
    Answered,
    Ask,
    Began,
    Broke,
    Command,
    Failed,
    Follow,
    Lead,
    Leadership,
    Notified,
    StandDown,
    Ticked,
)

TTL = 3.0


def mine(asked_at: float, epoch: int = 1) -> Answered:
    return Answered(asked_at, True, epoch, "me", TTL)


def theirs(asked_at: float, remaining_s: float = TTL, endpoints: str = "them") -> Answered:
    return Answered(asked_at, False, 1, endpoints, remaining_s)


def leading() -> Leadership:
    machine = Leadership(TTL)
    assert machine.handle(Began(), 0.0) == [Ask()]
    assert machine.handle(mine(0.0), 0.1) == [Lead(1)]
    return machine


def test_it_renews_in_time_and_goes_on() -> None:
    machine = leading()
    now = 0.1
    for _ in range(20):
        wait_s = machine.wait_s(now)
        assert wait_s <= TTL / 3 + 1e-9
        now += wait_s + 1e-9
        assert machine.handle(Ticked(), now) == [Ask()]
        assert machine.leads(now)
        assert machine.handle(mine(now), now + 0.01) == []
        now += 0.01


def test_it_stands_down_before_the_lease_ends_elsewhere() -> None:
    machine = leading()
    assert machine.handle(Ticked(), 1.2) == [Ask()]
    assert machine.handle(Failed("gone"), 1.3) == []
    assert machine.leads(TTL * (1 - MARGIN) - 0.001)
    end = TTL * (1 - MARGIN)
    assert not machine.leads(end)
    commands = machine.handle(Ticked(), end)
    assert commands == [StandDown("the lease ended before it was renewed")]
    # Nothing is asked until what it led has ended.
    assert machine.handle(mine(end), end + 0.1) == []
    assert machine.handle(Ticked(), end + 9.0) == []
    assert machine.handle(Began(), end + 9.0) == [Ask()]
    assert machine.handle(mine(end + 9.0, 2), end + 9.1) == [Lead(2)]


def test_an_answer_that_comes_too_late_counts_for_nothing() -> None:
    machine = leading()
    machine.handle(Ticked(), 1.2)
    assert machine.handle(mine(1.2), 60.0) == [StandDown("the lease was renewed too late")]
    idle = Leadership(TTL)
    idle.handle(Began(), 0.0)
    assert idle.handle(mine(0.0), TTL) == []
    assert not idle.leads(TTL)


def test_it_follows_and_asks_again_when_the_lease_can_be_had() -> None:
    machine = Leadership(TTL)
    machine.handle(Began(), 0.0)
    assert machine.handle(theirs(0.0, 0.4), 0.1) == [Follow("them")]
    assert machine.wait_s(0.1) == 0.4
    assert machine.handle(Ticked(), 0.5) == [Ask()]
    assert machine.handle(theirs(0.5), 0.5) == [], "the same leader is not said twice"
    assert machine.handle(Notified(), 0.6) == [Ask()]
    assert machine.handle(Failed("gone"), 0.7) == []
    assert machine.handle(theirs(0.9, endpoints="others"), 1.0) == [Follow("others")]


def test_who_cannot_begin_stands_down_and_who_is_overtaken_too() -> None:
    assert leading().handle(Broke("the store is gone"), 0.5) == [StandDown("the store is gone")]
    machine = leading()
    machine.handle(Ticked(), 1.2)
    assert machine.handle(theirs(1.2), 1.3) == [StandDown("another control plane leads"), Follow("them")]


@dataclass
class Database:
    """The lease's row, on the database's clock."""

    holder: int = -1
    epoch: int = 0
    until: float = 0.0

    def acquire(self, who: int, known: int, now: float) -> tuple[bool, int, float]:
        own = self.holder == who and self.epoch == known != 0
        if not own and now < self.until:
            return False, self.epoch, self.until - now
        self.epoch = self.epoch if own else self.epoch + 1
        self.holder, self.until = who, now + TTL
        return True, self.epoch, TTL


@dataclass
class Process:
    """One control plane: its clock runs at its own speed, it sleeps, its questions and answers travel."""

    who: int
    rate: float
    machine: Leadership = field(default_factory=lambda: Leadership(TTL))
    known: int = 0
    answers: list[tuple[float, Answered | Failed]] = field(default_factory=list)
    asks: list[tuple[float, float]] = field(default_factory=list)
    ending_at: float = -1.0
    asleep_until: float = 0.0

    def clock(self, now: float) -> float:
        return 1000.0 * self.who + now * self.rate

    def take(self, commands: list[Command], now: float, delay: float) -> None:
        for command in commands:
            if isinstance(command, Ask):
                self.asks.append((now + delay, self.clock(now)))
            elif isinstance(command, StandDown):
                self.ending_at = now + 0.3


@pytest.mark.parametrize("seed", range(40))
def test_two_never_lead_at_once(seed: int) -> None:
    """Clocks up to 4 % apart, processes that sleep, messages that are slow or lost."""
    rng = random.Random(seed)
    database = Database()
    processes = [Process(who, rng.uniform(0.98, 1.02)) for who in range(3)]
    for process in processes:
        process.take(process.machine.handle(Began(), process.clock(0.0)), 0.0, 0.0)
    led = 0
    for step in range(1, 1500):
        now = step * 0.02
        for p in processes:
            for ask in [a for a in p.asks if a[0] <= now]:
                p.asks.remove(ask)
                if rng.random() < 0.1:
                    p.answers.append((now + 1.0, Failed("lost")))
                    continue
                own, epoch, remaining = database.acquire(p.who, p.known, now)
                p.known = epoch if own else p.known
                answer = Answered(ask[1], own, epoch, str(database.holder), remaining)
                p.answers.append((now + rng.choice([0.0, 0.05, 2.0]), answer))
            if now < p.asleep_until:
                continue
            if rng.random() < 0.003:
                p.asleep_until = now + rng.uniform(0.1, 6.0)
                continue
            clock, delay = p.clock(now), rng.choice([0.0, 0.05, 1.0])
            for due in [a for a in p.answers if a[0] <= now]:
                p.answers.remove(due)
                p.take(p.machine.handle(due[1], clock), now, delay)
            if 0 <= p.ending_at <= now:
                p.ending_at, p.known = -1.0, 0
                p.take(p.machine.handle(Began(), clock), now, delay)
            p.take(p.machine.handle(Ticked(), clock), now, delay)
        leaders = [p for p in processes if p.machine.leads(p.clock(now))]
        led += len(leaders)
        assert len(leaders) <= 1, [p.who for p in leaders]
    assert led > 100
