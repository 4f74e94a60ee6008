"""Certificates that end soon are told of; orders that fail leave what is there alone. In virtual time."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from control_plane.automatic_certificates import AutomaticCertificates
from control_plane.observed import Observed
from control_plane.ports import CertificateOrder, EventQuery
from control_plane.state import Batch, State
from fleet.errors import Code, LocciError
from locci.v1 import certificate_pb2
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore

DAY = 86_400


class Refusing:
    """An authority that refuses every order, and suggests to renew at once when it is asked."""

    def __init__(self, suggested_at: float | None = None):
        self.orders: list[tuple[str, ...]] = []
        self.suggested_at = suggested_at

    async def order(self, hostnames: tuple[str, ...], by_http: Collection[str]) -> CertificateOrder:
        self.orders.append(hostnames)
        raise LocciError(Code.UNAVAILABLE, "ACME_FAILED", "the authority refused: too many orders")

    async def finish(self, order: CertificateOrder) -> str:
        raise AssertionError("there is no order")

    async def suggested_renewal(self, chain_pem: str) -> float | None:
        return self.suggested_at


class Open:
    """A vault without a lock."""

    def seal(self, content: bytes, context: str) -> bytes:
        return content

    def open(self, sealed: bytes, context: str) -> bytes:
        return sealed


def made(state: State, clock: ManualClock, authority: Refusing, directory: str = "https://ca.test/dir") -> Any:
    return AutomaticCertificates(
        state,
        Observed(0.0, 0.0),
        Open(),
        clock,
        random.Random(1),
        served=lambda: ["a.test"],
        wake=lambda: None,
        leads=lambda: True,
        directory=directory,
        connect=lambda key_pem: authority,
        fresh_key=lambda: b"key",
    )


async def fleet(*, automatic: bool, order_day: float = 0.0) -> State:
    """A certificate for a.test of ninety days."""
    state = State(MemoryStore())
    row = certificate_pb2.Certificate(name="certificates/a", hostnames=["a.test"], chain_pem="x", automatic=automatic)
    row.expire_time.FromSeconds(90 * DAY)
    row.order_time.FromSeconds(int(order_day * DAY))

    def build(batch: Batch) -> None:
        batch.put(state.certificates, row.name, row)

    await state.transact(build)
    return state


async def events(state: State) -> list[str]:
    return [f"{e.type}: {e.message}" for e in await state.events(EventQuery(limit=100, ascending=True))]


async def test_one_that_ends_soon_is_told_once_also_without_an_authority() -> None:
    state, clock = await fleet(automatic=False), ManualClock(wall=70.0 * DAY)
    automatic = made(state, clock, Refusing(), directory="")
    await automatic.look()
    assert await events(state) == []
    clock = ManualClock(wall=80.0 * DAY)
    automatic = made(state, clock, Refusing(), directory="")
    await automatic.look()
    await automatic.look()
    (told,) = await events(state)
    assert told.startswith("CertificateExpiring: certificates/a for a.test ends 1970-04-01 00:00 UTC; replace it")


async def test_a_refused_renewal_keeps_the_old_one_and_waits() -> None:
    state, authority = await fleet(automatic=True, order_day=60.0), Refusing()
    automatic = made(state, ManualClock(wall=61.0 * DAY), authority)
    for _ in range(3):
        await automatic.look()
    assert authority.orders == [("a.test",)], "the next attempt is later"
    row = state.certificates.need("certificates/a")
    assert row.chain_pem == "x"
    assert (row.failures, row.problem) == (1, "the authority refused: too many orders")
    assert 30 <= row.order_time.seconds - 61 * DAY <= 60
    assert [text.partition(":")[0] for text in await events(state)] == ["CertificateOrderFailed"]


async def test_the_authority_may_want_it_earlier() -> None:
    state = await fleet(automatic=True, order_day=60.0)
    authority = Refusing(suggested_at=20.0 * DAY)
    automatic = made(state, ManualClock(wall=30.0 * DAY), authority)
    await automatic.look()
    assert authority.orders == []
    assert state.certificates.need("certificates/a").order_time.seconds == 20 * DAY
    await automatic.look()
    assert authority.orders == [("a.test",)]
