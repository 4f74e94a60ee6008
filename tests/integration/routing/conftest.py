"""The rig, with an edge per region that is in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.routing.rig import Rig
from tests.unit.routing.adapters.resources import PLACES, whole


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    for region in PLACES:
        await rig.edges.start(region)
    rig.keep(whole(rig.edges.port))
    yield rig
    rig.edges.close()
