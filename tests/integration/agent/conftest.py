"""One engine for all tests of the agent; an agent of its own for each."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.agent.rig import Rig
from tests.integration.engine_fixture import EngineHost, engine_host

__all__ = ["engine_host"]


@pytest.fixture(scope="session")
def image(engine_host: EngineHost) -> str:
    """A web server's image, by digest, in the registry."""
    return engine_host.push("good")


@pytest.fixture
async def rig(engine_host: EngineHost, tmp_path: Path) -> AsyncIterator[Rig]:
    """An agent that is not started so far."""
    async with Rig(engine_host, tmp_path).serving() as rig:
        yield rig


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[Path]:
    """The agent's state directory on a file system of 64 KiB."""
    rig.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(rig.state)], check=True)
    try:
        yield rig.state
    finally:
        subprocess.run(["umount", "--lazy", str(rig.state)], check=True)
