"""A request with an id acts once: at the same time, after its answer, after a restart, after a crash in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest

from control_plane.idempotency import KEPT_MAX, Idempotency
from locci.v1 import app_pb2, event_pb2, region_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        yield rig


def request(identifier: str = "11111111-2222-3333-4444-555555555555") -> app_pb2.ApplyAppRequest:
    return app_pb2.ApplyAppRequest(manifest=manifest(), request_id=identifier)


async def count(rig: Rig, kind: str) -> int:
    answer = await rig.events.ListEvents(event_pb2.ListEventsRequest(type=kind))
    return len(answer.events)


async def test_repeats_get_the_first_answer(rig: Rig) -> None:
    first, second = await asyncio.gather(rig.apps.ApplyApp(request()), rig.apps.ApplyApp(request()))
    assert first == second
    assert (await rig.apps.ApplyApp(request())).release == first.release
    assert not (await rig.apps.ApplyApp(request())).unchanged


async def test_after_a_restart_the_answer_is_the_same(rig: Rig) -> None:
    first = await rig.apps.ApplyApp(request())
    await rig.stop()
    await rig.start()
    assert await rig.apps.ApplyApp(request()) == first
    assert len(rig.plane.state.releases) == 1


async def test_an_id_that_was_used_for_something_else_is_refused(rig: Rig) -> None:
    await rig.apps.ApplyApp(request())
    await rig.stop()
    await rig.start()
    other = request()
    other.manifest.env["A"] = "b"
    error = await error_of(rig.apps.ApplyApp(other))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_after_a_crash_before_the_answer_was_kept_nothing_is_done_twice(rig: Rig) -> None:
    async def crash(*_: object) -> None:
        return None

    with patch.object(Idempotency, "_keep", crash):
        await rig.apps.ApplyApp(request())
    await rig.stop()
    await rig.start()
    error = await error_of(rig.apps.ApplyApp(request()))
    assert error.code() is grpc.StatusCode.ABORTED
    assert "read the resource" in (error.details() or "")
    assert len(rig.plane.state.releases) == 1


async def test_what_failed_may_be_tried_again(rig: Rig) -> None:
    bad = region_pb2.CreateRegionRequest(region_id="Nope!", request_id="a")
    assert (await error_of(rig.regions.CreateRegion(bad))).code() is grpc.StatusCode.INVALID_ARGUMENT
    good = region_pb2.CreateRegionRequest(region_id="ap", request_id="a")
    assert (await rig.regions.CreateRegion(good)).name == "regions/ap"


async def test_what_is_kept_is_bounded(rig: Rig) -> None:
    state = rig.plane.state
    await state.transact(
        lambda batch: [
            batch.put(state.requests, f"requests/{n}", type(state.requests.message())(value=bytes(40)))
            for n in range(KEPT_MAX)
        ]
    )
    await rig.apps.ApplyApp(request())
    assert len(state.requests) < KEPT_MAX
