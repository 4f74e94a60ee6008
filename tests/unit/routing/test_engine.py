"""The engine in virtual time: what answers say as the brain changes its mind."""

from __future__ import annotations

from dataclasses import replace

import dns.message
import pytest

from routing.core.failover import Failover
from routing.core.model import Family
from routing.core.steering import UNSTEADY_TTL_S
from routing.engine import Engine
from tests.fakes.clock import ManualClock
from tests.unit.routing.tables import HOSTNAMES, table

SOURCE = b"\x0a\x01\x00\x07"
EU = ("eu-1", Family.IPV4)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> Engine:
    """With names that may be kept for a minute; every target has answered."""
    made = Engine(Failover("us-1", "us"), clock, {})
    names = {h.name: replace(h, ttl_s=60) for h in HOSTNAMES}
    names["far.example.net"] = replace(names["hello.example.net"], name="far.example.net", replicas=(("ap", 1),))
    made.take_table(table(hostnames=names))
    for target in made.targets:
        made.succeeded(target.key, 0.001)
    return made


def ttl(engine: Engine, name: str = "hello.example.net") -> int:
    answer = engine.respond(dns.message.make_query(name, "A").to_wire(), SOURCE, False)
    assert answer is not None
    return dns.message.from_wire(answer).answer[0].ttl


async def test_answers_are_kept_for_a_moment_only_while_a_region_comes_or_goes(
    engine: Engine, clock: ManualClock
) -> None:
    assert ttl(engine) == 60
    for _ in range(3):
        engine.failed(EU, clock.monotonic(), False, "connection refused")
    assert EU not in engine.brain.rotation()
    assert ttl(engine) == UNSTEADY_TTL_S
    assert ttl(engine, "far.example.net") == 60, "it was never answered with that region"
    await clock.advance(29.0)
    engine.take_time()
    assert ttl(engine) == UNSTEADY_TTL_S
    await clock.advance(1.0)
    engine.take_time()
    assert ttl(engine) == 60, "nothing has changed for half a minute"


def test_a_shorter_time_to_live_stays(engine: Engine) -> None:
    engine.take_table(table(hostnames={h.name: replace(h, ttl_s=1) for h in HOSTNAMES}))
    for _ in range(3):
        engine.failed(EU, 0.0, False, "connection refused")
    assert ttl(engine) == 1


async def test_clients_return_to_an_edge_bit_by_bit(engine: Engine, clock: ManualClock) -> None:
    """Nobody who has come back is sent away again, and everybody is answered all the time."""

    def here() -> set[int]:
        found = set()
        for number in range(200):
            query = dns.message.make_query("hello.example.net", "A").to_wire()
            answer = engine.respond(query, bytes((10, 1, number, 1)), False)
            assert answer is not None
            (record,) = dns.message.from_wire(answer).answer[0]
            if record.to_text() == "192.0.2.11":
                found.add(number)
        return found

    assert len(here()) == 200
    for _ in range(3):
        engine.failed(EU, clock.monotonic(), False, "connection refused")
    assert not here()
    for _ in range(30):
        await clock.advance(0.25)
        engine.succeeded(EU, 0.001)
        if EU in engine.brain.rotation():
            break
    shares, before = [], set[int]()
    for _ in range(11):
        engine.take_time()
        now = here()
        assert before <= now
        before = now
        shares.append(len(now))
        await clock.advance(1.0)
    assert 0 <= shares[0] < 60
    assert 60 < shares[5] < 160
    assert shares[10] == 200
    assert shares == sorted(shares)
