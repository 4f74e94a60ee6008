"""Probes of containers over HTTP, TCP and gRPC and by commands: one task for each container and purpose."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.core.messages import Event, ProbeFailed, ProbeSucceeded, StartProbing
from agent.core.model import Probe, Purpose
from fleet.clock import Clock

EAGER_FIRST_S: Final = 0.01
EAGER_GROWTH: Final = 1.5
BODY_BYTES_MAX: Final = 64 * 1024

RunIn = Callable[[str, tuple[str, ...], float], Awaitable[str]]
"""Runs a command in a container, with a time limit; why it failed, empty when it did not."""


Listens = Callable[[str, str, int], bool]
"""Whether something in the container listens at this address and port; must take no time."""


class Prober:
    """Asks, and posts each answer."""

    def __init__(
        self, post: Callable[[Event], None], clock: Clock, rng: random.Random, run_in: RunIn, listens: Listens
    ):
        self._post = post
        self._run_in = run_in
        self._listens = listens
        self._clock = clock
        self._rng = rng
        self._tasks: dict[tuple[str, Purpose], asyncio.Task[None]] = {}

    def start(self, command: StartProbing) -> None:
        """Begins to ask, in place of what was asked before."""
        self.stop(command.container_id, command.purpose)
        self._tasks[command.container_id, command.purpose] = asyncio.create_task(self._run(command))

    def stop(self, container_id: str, purpose: Purpose) -> None:
        """Asks no more."""
        task = self._tasks.pop((container_id, purpose), None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Ends every probe."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, command: StartProbing) -> None:
        probe = command.probe
        pause_s = EAGER_FIRST_S if command.eager else probe.interval_s
        if not command.eager:
            await self._clock.sleep(self._rng.uniform(0, probe.interval_s))
        while True:
            begun = self._clock.monotonic()
            reason = await self._ask(command)
            if reason:
                elsewhere = await self._is_elsewhere(command)
                self._post(ProbeFailed(command.container_id, command.purpose, reason, elsewhere))
                pause_s = min(probe.interval_s, pause_s * EAGER_GROWTH)
            else:
                self._post(ProbeSucceeded(command.container_id, command.purpose))
                pause_s = probe.interval_s
            await self._clock.sleep(max(0.0, begun + pause_s - self._clock.monotonic()))

    async def _ask(self, command: StartProbing) -> str:
        probe = command.probe
        if probe.kind != "exec":
            return await ask(probe, command.ip)
        reason = await self._run_in(command.container_id, probe.command, probe.timeout_s)
        return f"exec probe: {' '.join(probe.command)}: {reason}" if reason else ""

    async def _is_elsewhere(self, command: StartProbing) -> bool:
        """Whether connections to the container are refused although it listens: they reach somebody else."""
        probe = command.probe
        if probe.kind == "exec" or not self._listens(command.container_id, command.ip, probe.port):
            return False
        try:
            async with asyncio.timeout(probe.timeout_s):
                _, writer = await asyncio.open_connection(command.ip, probe.port)
        except ConnectionRefusedError:
            return self._listens(command.container_id, command.ip, probe.port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return False


async def ask(probe: Probe, ip: str) -> str:
    """Why the container is not in order, in a sentence; empty when it is."""
    if probe.kind == "grpc":
        return await _grpc(probe, ip)
    what = f"{probe.kind} probe of port {probe.port}"
    try:
        async with asyncio.timeout(probe.timeout_s):
            reader, writer = await asyncio.open_connection(ip, probe.port)
            try:
                return await _http(probe, reader, writer) if probe.kind == "http" else ""
            finally:
                writer.transport.abort()
    except TimeoutError:
        return f"{what}: no answer within {probe.timeout_s:g} s"
    except ConnectionRefusedError:
        return f"{what}: nothing listens there so far"
    except OSError as error:
        return f"{what}: {error.strerror or error}"


async def _http(probe: Probe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """A status from 200 to 399 is good (RFC 9110, section 15)."""
    head = f"GET {probe.path} HTTP/1.1\r\nHost: {probe.host}\r\nUser-Agent: locci-probe\r\n"
    writer.write(f"{head}Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii"))
    try:
        words = (await reader.readline()).split(maxsplit=2)
    except ValueError:
        words = []
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return f"http probe of port {probe.port}: the answer is not HTTP"
    status = int(words[1])
    # A server whose answer is cut short may log an error for each probe; the verdict does not depend on the rest.
    with contextlib.suppress(OSError):
        await reader.read(BODY_BYTES_MAX)
    return "" if 200 <= status < 400 else f"http probe: GET {probe.path} was answered with status {status}"


async def _grpc(probe: Probe, ip: str) -> str:
    """SERVING is good (grpc.health.v1)."""
    what = f"grpc probe of port {probe.port}"
    address = f"[{ip}]:{probe.port}" if ":" in ip else f"{ip}:{probe.port}"
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=probe.service)
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe.timeout_s)
        except grpc.aio.AioRpcError as error:
            return f"{what}: {error.code().name}: {error.details() or 'no answer'}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else f"{what}: it says {status}"
