"""The host's clock jumps under a DNS server: it answers as before, and goes on to probe and to decide."""

from __future__ import annotations

import asyncio

import dns.exception
import pytest

from tests.fakes.ports import free_port
from tests.fakes.wall_clock import WallClock
from tests.integration.routing.rig import Rig, addresses, eventually
from tests.unit.routing.adapters.resources import PLACES, whole

ASKED = 40


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
async def test_a_clock_that_jumps_changes_no_answer_and_no_decision(rig: Rig, offset: str) -> None:
    clock, port = WallClock(rig.path), free_port()
    rig.keep(whole(rig.edges.port))
    process = await rig.spawn(port, **clock.environment)
    places = {f"10.{number}.0.0": f"127.0.1.{number}" for _, _, number in PLACES.values()}

    async def nearest() -> bool:
        try:
            found = {subnet: await addresses(port, subnet=subnet, timeout_s=2) for subnet in places}
        except (OSError, dns.exception.DNSException):
            return False
        return found == {subnet: {address} for subnet, address in places.items()}

    async def elsewhere() -> bool:
        return await addresses(port, subnet="10.1.0.0") != {"127.0.1.1"}

    try:
        await eventually(nearest, 60)
        clock.jump(offset)
        for _ in range(ASKED):
            assert await nearest()
            await asyncio.sleep(0.05)
        rig.edges.stop("eu")
        await eventually(elsewhere)
        clock.jump("+0")
        await rig.edges.start("eu")
        await eventually(nearest, 60)
        assert process.returncode is None
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
