"""Files of containers, as tar archives, by Docker Engine's own means.

Engine API, "Get an archive of a filesystem resource in a container" and "Extract an archive of files or folders to a
directory in a container".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import aiohttp

from locci.v1 import agent_pb2

PIECE_BYTES: Final = 32 * 1024
IDLE_S: Final = 300.0

Downloads = asyncio.Queue[agent_pb2.ExecDownload]


class Copying:
    """One archive, in or out."""

    def __init__(self, session: aiohttp.ClientSession, base: str, question: agent_pb2.OpenExec):
        self._session = session
        self._url = f"{base}/containers/{question.container_id}/archive"
        self._question = question

    async def uploads(self, downloads: Downloads) -> AsyncGenerator[agent_pb2.ExecUpload, None]:
        """The archive, or nothing, then exit code 0; or why it could not be."""
        path = self._question.copy_from or self._question.copy_to
        async with self._session.head(self._url, params={"path": path}) as response:
            if response.status != 200:
                yield agent_pb2.ExecUpload(problem=f"there is no {path}, or Docker Engine cannot read it")
                return
        yield agent_pb2.ExecUpload()
        # Its length is not known; that nothing moves is what ends it.
        timeout = aiohttp.ClientTimeout(total=None, sock_read=IDLE_S)
        if self._question.copy_from:
            call = self._session.get(self._url, params={"path": self._question.copy_from}, timeout=timeout)
        else:
            params = {"path": self._question.copy_to, "noOverwriteDirNonDir": "1"}
            call = self._session.put(self._url, params=params, data=_archive(downloads), timeout=timeout)
        async with call as response:
            if response.status != 200:
                yield agent_pb2.ExecUpload(problem=await _refusal(response))
                return
            if self._question.copy_from:
                async for piece in response.content.iter_chunked(PIECE_BYTES):
                    yield agent_pb2.ExecUpload(stdout=piece)
        yield agent_pb2.ExecUpload(exit_code=0)


async def _archive(downloads: Downloads) -> AsyncIterator[bytes]:
    while True:
        download = await downloads.get()
        if download.stdin:
            yield download.stdin
        if download.end_of_stdin:
            return


async def _refusal(response: aiohttp.ClientResponse) -> str:
    answer: Any = await response.json(content_type=None)
    said = answer.get("message", "") if isinstance(answer, dict) else ""
    return f"Docker Engine refused: {said or response.status}"
