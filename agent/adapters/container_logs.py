"""What a container writes, from Docker Engine's own stream.

Engine API, "Get container logs" and "Attach to a container": frames with a head of eight bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

import aiohttp

from agent.adapters.containers import LABEL_NODE
from locci.v1 import agent_pb2, logs_pb2

LINES_MAX: Final = 256
"""So many lines go into one message."""
LINE_CHARS_MAX: Final = 16_384
CONNECT_S: Final = 10.0
_HEAD_BYTES: Final = 8
_STREAMS: Final = {1: logs_pb2.LOG_STREAM_STDOUT, 2: logs_pb2.LOG_STREAM_STDERR}
_CONTAINER: Final = re.compile(r"[0-9a-f]{12,64}")
_GONE: Final = "the container is not on this host any more"


class ContainerLogs:
    """Reads containers of this node at the engine of `docker_host`, `unix:///…` or `tcp://host:port`."""

    def __init__(self, docker_host: str, node: str):
        self._unix = docker_host.removeprefix("unix://") if docker_host.startswith("unix://") else ""
        self._base = "http://docker" if self._unix else docker_host.replace("tcp://", "http://", 1)
        self._node = node

    async def read(self, question: agent_pb2.OpenLogs) -> AsyncGenerator[agent_pb2.LogUpload, None]:
        """The lines, then why there are no more when that is not because all were said. Never raises for the engine."""
        try:
            connector = aiohttp.UnixConnector(self._unix) if self._unix else aiohttp.TCPConnector()
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                problem = await foreign(session, self._base, self._node, question.container_id)
                if problem:
                    yield agent_pb2.LogUpload(problem=problem)
                    return
                async with contextlib.aclosing(self._lines(session, question)) as uploads:
                    async for upload in uploads:
                        yield upload
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            yield agent_pb2.LogUpload(problem=f"Docker Engine broke off: {error or type(error).__name__}")

    async def _lines(
        self, session: aiohttp.ClientSession, question: agent_pb2.OpenLogs
    ) -> AsyncGenerator[agent_pb2.LogUpload, None]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": str(int(question.follow))}
        params["tail"] = str(question.tail_lines)
        if question.HasField("since_time"):
            params["since"] = f"{question.since_time.seconds}.{question.since_time.nanos:09}"
        url = f"{self._base}/containers/{question.container_id}/logs"
        async with session.get(url, params=params) as response:
            if response.status != 200:
                yield agent_pb2.LogUpload(problem=f"Docker Engine refused with {response.status}")
                return
            held = bytearray()
            async for piece in response.content.iter_any():
                held += piece
                lines = list(_frames(held))
                for begin in range(0, len(lines), LINES_MAX):
                    yield agent_pb2.LogUpload(lines=lines[begin : begin + LINES_MAX])


async def foreign(session: aiohttp.ClientSession, base: str, node: str, container_id: str) -> str:
    """Why a container is not to be looked into, in a sentence; only those of this node are."""
    if not _CONTAINER.fullmatch(container_id):
        return _GONE
    async with asyncio.timeout(CONNECT_S), session.get(f"{base}/containers/{container_id}/json") as response:
        found: Any = await response.json(content_type=None)
    labels = (found.get("Config") or {}).get("Labels") or {} if response.status == 200 else {}
    return "" if labels.get(LABEL_NODE) == node else _GONE


def _frames(held: bytearray) -> Iterator[logs_pb2.LogLine]:
    """Takes the whole frames off the front."""
    while len(held) >= _HEAD_BYTES:
        end = _HEAD_BYTES + int.from_bytes(held[4:_HEAD_BYTES], "big")
        if len(held) < end:
            return
        yield _line(held[0], bytes(held[_HEAD_BYTES:end]))
        del held[:end]


def _line(stream: int, body: bytes) -> logs_pb2.LogLine:
    stamp, _, text = body.partition(b" ")
    line = logs_pb2.LogLine(stream=_STREAMS.get(stream, logs_pb2.LOG_STREAM_UNSPECIFIED))
    with contextlib.suppress(ValueError):
        line.time.FromJsonString(stamp.decode("ascii", "replace"))
    line.text = text.rstrip(b"\r\n").decode("utf-8", "replace")[:LINE_CHARS_MAX]
    return line
