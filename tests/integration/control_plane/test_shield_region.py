"""The region that shields an app, from the manifest to what nodes are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import decode, encode
from agent.core.edge_view import edge_view
from fleet.identity import IdentityFacts
from locci.v1 import app_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        for region, longitude in (("eu", 8.7), ("us", -77.0)):
            await rig.region(region, 50.1, longitude)
            for number in (1, 2):
                await rig.host(f"{region}-{number}", region)
        yield rig


async def test_edges_of_other_regions_are_told_whom_to_ask_first(rig: Rig, tmp_path: Path) -> None:
    wanted = manifest()
    wanted.cache.shield_region = "mars"
    error = await error_of(rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted)))
    assert "manifest.cache.shield_region: there is no region 'mars'; there are: eu, us" in str(error.details())
    wanted.cache.shield_region = "eu"
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    await rig.finished(answer.rollout.name)
    below, shield = rig.hosts["us-1"], rig.hosts["eu-1"]
    await until(lambda: len(below.resources["routes/hello"].route.shield) == 2, "the shield is known")
    asked = below.resources["routes/hello"].route.shield
    assert [(edge.region, edge.node) for edge in asked] == [("eu", "eu-1"), ("eu", "eu-2")]
    assert all(edge.address.endswith(":7447") for edge in asked)
    assert not shield.resources["routes/hello"].route.shield
    facts = IdentityFacts("us-1", "us", "locci.test", (), "")
    told = encode.edge_config(1, edge_view(decode.target(below.link.snapshot).routes, [], []), facts, tmp_path)
    assert list(told.routes[0].shield) == list(asked)
    wanted.cache.shield_region = ""
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    await until(lambda: not below.resources["routes/hello"].route.shield, "there is none any more")
