"""Commands in containers, by Docker Engine's exec.

Engine API, "Exec": an exec is made, then started over a connection that is taken over (101), raw with a terminal and in
frames with a head of eight bytes without one. The engine leaves a command running whose caller goes: it is killed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog

from agent.adapters.container_copies import Copying
from agent.adapters.container_logs import CONNECT_S, foreign
from locci.v1 import agent_pb2

log = structlog.get_logger()

PIECE_BYTES: Final = 32 * 1024
ENDING_S: Final = 5.0
"""So long after its output ended, or after it was killed, the engine has to say how a command ended."""
_HEAD_BYTES: Final = 8
_ANSWER_BYTES_MAX: Final = 16 * 1024
_LOOK_S: Final = 0.05

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Downloads = asyncio.Queue[agent_pb2.ExecDownload]


class ContainerCommands:
    """Runs commands in containers of this node at the engine of `docker_host`, `unix:///…` or `tcp://host:port`."""

    def __init__(self, docker_host: str, node: str, *, allowed: bool = True):
        self._unix = docker_host.removeprefix("unix://") if docker_host.startswith("unix://") else ""
        self._base = "http://docker" if self._unix else docker_host.replace("tcp://", "http://", 1)
        self._node = node
        self._allowed = allowed

    async def run(
        self, question: agent_pb2.OpenExec, downloads: Downloads
    ) -> AsyncGenerator[agent_pb2.ExecUpload, None]:
        """What it writes, and how it ended, or why it did not. Never raises for the engine."""
        if not self._allowed:
            yield agent_pb2.ExecUpload(problem="this host's policy (commands) does not allow it")
            return
        connector = aiohttp.UnixConnector(self._unix) if self._unix else aiohttp.TCPConnector()
        timeout = aiohttp.ClientTimeout(total=CONNECT_S)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                problem = await foreign(session, self._base, self._node, question.container_id)
                if not problem and (question.copy_from or question.copy_to):
                    copying = Copying(session, self._base, question)
                    async with contextlib.aclosing(copying.uploads(downloads)) as uploads:
                        async for upload in uploads:
                            yield upload
                    return
                if not problem:
                    execution = _Execution(session, self._base, self._unix, question)
                    problem = await execution.create()
                if problem:
                    yield agent_pb2.ExecUpload(problem=problem)
                    return
                log.info("command_begins", container=question.container_id[:12], command=question.command[0])
                async with contextlib.aclosing(execution.uploads(downloads)) as uploads:
                    async for upload in uploads:
                        yield upload
        except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            yield agent_pb2.ExecUpload(problem=f"Docker Engine broke off: {error or type(error).__name__}")


class _Execution:
    """One command."""

    def __init__(self, session: aiohttp.ClientSession, base: str, unix: str, question: agent_pb2.OpenExec):
        self._session = session
        self._base = base
        self._unix = unix
        self._question = question
        self._id = ""

    async def create(self) -> str:
        """Makes it known to the engine; why that cannot be, in a sentence."""
        body = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": self._question.tty,
            "Cmd": list(self._question.command),
            "Env": ["TERM=xterm-256color"] if self._question.tty else [],
        }
        url = f"{self._base}/containers/{self._question.container_id}/exec"
        async with self._session.post(url, json=body) as response:
            answer: Any = await response.json(content_type=None)
        if response.status != 201:
            return f"Docker Engine refused: {answer.get('message', response.status)}"
        self._id = answer["Id"]
        return ""

    async def uploads(self, downloads: Downloads) -> AsyncGenerator[agent_pb2.ExecUpload, None]:
        """Starts it; what it writes to its end, then its exit code."""
        writer: asyncio.StreamWriter | None = None
        feeding: asyncio.Task[None] | None = None
        ended = False
        try:
            reader, writer = await self._start()
            feeding = asyncio.create_task(self._feed(downloads, writer))
            yield agent_pb2.ExecUpload()
            pieces = _raw(reader) if self._question.tty else _frames(reader)
            async for upload in pieces:
                yield upload
            code = await self._exit_code()
            ended = code is not None
            if code is None:
                yield agent_pb2.ExecUpload(problem="its output ended, and Docker Engine does not say how it did")
            else:
                yield agent_pb2.ExecUpload(exit_code=code)
        finally:
            if feeding is not None:
                feeding.cancel()
            if writer is not None:
                writer.close()
            if not ended:
                await asyncio.shield(self._kill())

    async def _start(self) -> Streams:
        async with asyncio.timeout(CONNECT_S):
            if self._unix:
                reader, writer = await asyncio.open_unix_connection(self._unix)
            else:
                where = urlsplit(self._base)
                reader, writer = await asyncio.open_connection(where.hostname, where.port or 2375)
            body = json.dumps({"Detach": False, "Tty": self._question.tty}).encode()
            writer.write(
                f"POST /exec/{self._id}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b" ", 2)[1]
            if status != b"101":
                text = (await reader.read(_ANSWER_BYTES_MAX)).decode("utf-8", "replace").strip()
                writer.close()
                raise OSError(f"the command was not started ({status.decode()}): {text}")
        if self._question.tty:
            await self._resize(self._question.size.columns, self._question.size.rows)
        return reader, writer

    async def _feed(self, downloads: Downloads, writer: asyncio.StreamWriter) -> None:
        """Passes on what comes; a command that does not read holds back whoever writes."""
        with contextlib.suppress(OSError):
            while True:
                download = await downloads.get()
                if download.stdin:
                    writer.write(download.stdin)
                    await writer.drain()
                if download.HasField("resize"):
                    await self._resize(download.resize.columns, download.resize.rows)
                if download.end_of_stdin and not self._question.tty and writer.can_write_eof():
                    writer.write_eof()

    async def _resize(self, columns: int, rows: int) -> None:
        params = {"w": str(columns or 80), "h": str(rows or 24)}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(f"{self._base}/exec/{self._id}/resize", params=params) as response:
                await response.read()

    async def _exit_code(self) -> int | None:
        """How it ended; None when it goes on though its output has ended."""
        end = asyncio.get_running_loop().time() + ENDING_S
        while True:
            found = await self._inspect()
            if not found.get("Running", False) and found.get("ExitCode") is not None:
                return int(found["ExitCode"])
            if asyncio.get_running_loop().time() > end:
                return None
            await asyncio.sleep(_LOOK_S)

    async def _inspect(self) -> dict[str, Any]:
        async with self._session.get(f"{self._base}/exec/{self._id}/json") as response:
            found: dict[str, Any] = await response.json(content_type=None)
            return found

    async def _kill(self) -> None:
        """Ends a command that nobody waits for any more; the engine knows it by its process id on this host."""
        end = asyncio.get_running_loop().time() + ENDING_S
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            while asyncio.get_running_loop().time() < end:
                found = await self._inspect()
                pid = int(found.get("Pid") or 0)
                if found.get("Running") and pid > 1:
                    os.kill(pid, signal.SIGKILL)
                    log.info("command_killed", container=self._question.container_id[:12])
                    return
                if found.get("ExitCode") is not None:
                    return
                # It was to be started a moment ago, and the engine has not got so far.
                await asyncio.sleep(_LOOK_S)


async def _raw(reader: asyncio.StreamReader) -> AsyncIterator[agent_pb2.ExecUpload]:
    while piece := await reader.read(PIECE_BYTES):
        yield agent_pb2.ExecUpload(stdout=piece)


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[agent_pb2.ExecUpload]:
    """What comes in frames, in pieces of a bounded size."""
    while True:
        try:
            head = await reader.readexactly(_HEAD_BYTES)
        except asyncio.IncompleteReadError:
            return
        left = int.from_bytes(head[4:], "big")
        while left:
            piece = await reader.read(min(left, PIECE_BYTES))
            if not piece:
                return
            left -= len(piece)
            yield agent_pb2.ExecUpload(stderr=piece) if head[0] == 2 else agent_pb2.ExecUpload(stdout=piece)
