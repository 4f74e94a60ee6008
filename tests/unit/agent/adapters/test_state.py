"""What the agent keeps on disk."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.adapters.state import BLOCK, StateFile, StateLock
from fleet.errors import LocciError


async def test_a_generation_is_never_given_out_twice(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    first = StateFile(path)
    assert first.generation == 0
    second = StateFile(path)
    assert second.generation == BLOCK
    second.publish(5 * BLOCK, frozenset({"c1"}))
    writing = asyncio.create_task(second.run())
    async with asyncio.timeout(5):
        while json.loads(path.read_text())["ready"] != ["c1"]:
            await asyncio.sleep(0)
    writing.cancel()
    third = StateFile(path)
    assert third.generation > 5 * BLOCK
    assert third.ready == {"c1"}


@pytest.mark.parametrize("content", ["", "[]", '{"ready": 3}', "\x00"])
async def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    assert StateFile(path).ready == frozenset()


async def test_a_directory_that_cannot_be_written_does_not_end_the_agent(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "missing" / "state.json").generation == 0


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with pytest.raises(LocciError, match="another agent works on"):
        StateLock(tmp_path)
    lock.release()
    StateLock(tmp_path).release()
