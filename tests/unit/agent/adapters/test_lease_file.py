"""Leases over a restart: within one boot, and worth nothing when they cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.adapters.lease_file import LeaseFile


async def written(file: LeaseFile, leases: dict[str, float], path: Path) -> None:
    task = asyncio.create_task(file.run())
    before = path.read_bytes() if path.exists() else b""
    file.keep(leases)
    async with asyncio.timeout(5):
        while not path.exists() or path.read_bytes() == before:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_leases_are_there_after_a_restart_of_the_agent_but_not_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    await written(LeaseFile(path, "boot-1"), {"replicas/a/0/1": 12.5}, path)
    assert LeaseFile(path, "boot-1").leases == {"replicas/a/0/1": 12.5}
    assert LeaseFile(path, "boot-2").leases == {}
    assert LeaseFile(path, "").leases == {}, "without a boot id nothing can be relied on"
    await written(LeaseFile(path, "boot-1"), {}, path)
    assert LeaseFile(path, "boot-1").leases == {}


def test_what_cannot_be_read_is_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    for content in ("", "[]", "{}", '{"boot_id": "b", "leases": []}', '{"boot_id": "b", "leases": {"a": "x"}}'):
        path.write_text(content)
        assert LeaseFile(path, "b").leases == {}
