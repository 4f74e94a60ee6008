"""The unix socket on which `locci-agent status` asks a running agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fleet.errors import Code, LocciError

DEADLINE_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 16 * 2**20


class StatusSocket:
    """Answers each connection with one JSON document, and hangs up."""

    def __init__(self, path: Path, status: Callable[[], dict[str, Any]]):
        self._path = path
        self._status = status
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to listen. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Answers no more."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(self._status()).encode())
            async with asyncio.timeout(DEADLINE_S):
                await writer.drain()
            writer.close()
        except (OSError, TimeoutError):
            writer.transport.abort()


async def ask(path: Path) -> dict[str, Any]:
    """What the agent that listens at `path` says. Raises UNAVAILABLE when none does."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            content = await reader.read(-1)
        writer.close()
        answer: dict[str, Any] = json.loads(content)
    except (OSError, TimeoutError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
        message = f"no agent answers at {path}: {reason}; is `locci-agent run` running with this configuration?"
        raise LocciError(Code.UNAVAILABLE, "NOT_RUNNING", message) from error
    return answer
