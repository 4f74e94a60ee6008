"""Asking a running agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.status_socket import StatusSocket, ask
from fleet.errors import LocciError


async def test_the_status_is_answered(tmp_path: Path) -> None:
    socket = StatusSocket(tmp_path / "agent.sock", lambda: {"node": "eu-1", "long": "x" * 300_000})
    await socket.start()
    assert (await ask(tmp_path / "agent.sock"))["node"] == "eu-1"
    assert (tmp_path / "agent.sock").stat().st_mode & 0o777 == 0o600
    await socket.close()
    with pytest.raises(LocciError, match="no agent answers"):
        await ask(tmp_path / "agent.sock")
