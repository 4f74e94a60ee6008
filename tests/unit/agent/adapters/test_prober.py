"""Probes against small servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from agent.adapters.prober import Prober, ask
from agent.core.messages import Event, ProbeFailed, ProbeSucceeded, StartProbing
from agent.core.model import Probe, Purpose
from fleet.clock import SystemClock


@contextlib.asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[int]:
    """Answers every connection with these bytes; with None, never. The port."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def never(container_id: str, command: tuple[str, ...], timeout_s: float) -> str:
    """No command is to be run."""
    raise AssertionError(f"{command} in {container_id} for {timeout_s} s")


def deaf(container_id: str, address: str, port: int) -> bool:
    """Nothing listens in any container, as far as is known."""
    return False


def http(port: int) -> Probe:
    return Probe("http", port, path="/healthz", host="web.test", interval_s=0.02, timeout_s=0.3)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 399 Fine\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "was answered with status 404"),
        (b"HTTP/1.1 500 Oops\r\n\r\n", "status 500"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
        (b"x" * 200_000, "the answer is not HTTP"),
        (None, "no answer within 0.3 s"),
    ],
)
async def test_http(answer: bytes | None, said: str) -> None:
    async with server(answer) as port:
        reason = await ask(http(port), "127.0.0.1")
    assert said in reason
    assert bool(said) == bool(reason)


async def test_tcp() -> None:
    async with server(None) as port:
        probe = Probe("tcp", port)
        assert await ask(probe, "127.0.0.1") == ""
    assert "nothing listens" in await ask(probe, "127.0.0.1")


async def test_it_asks_again_and_again_until_it_is_told_to_stop() -> None:
    posted: asyncio.Queue[Event] = asyncio.Queue()
    prober = Prober(posted.put_nowait, SystemClock(), random.Random(1), never, deaf)
    async with asyncio.timeout(5):
        async with server(b"HTTP/1.1 200 OK\r\n\r\n") as port:
            prober.start(StartProbing("c1", Purpose.READINESS, http(port), "127.0.0.1", eager=True))
            for _ in range(3):
                assert await posted.get() == ProbeSucceeded("c1", Purpose.READINESS)
        while not isinstance(await posted.get(), ProbeFailed):
            pass
    prober.stop("c1", Purpose.READINESS)
    await prober.close()


@pytest.mark.parametrize(("listens", "answers"), [(True, False), (False, False), (True, True)])
async def test_refused_although_it_listens_is_told_apart(listens: bool, answers: bool) -> None:
    posted: asyncio.Queue[Event] = asyncio.Queue()
    prober = Prober(posted.put_nowait, SystemClock(), random.Random(1), never, lambda *of: listens)
    async with server(b"HTTP/1.1 500 Oops\r\n\r\n") as port:
        if answers:
            prober.start(StartProbing("c1", Purpose.READINESS, http(port), "127.0.0.1", eager=True))
            failed = await asyncio.wait_for(posted.get(), 5)
    if not answers:
        prober.start(StartProbing("c1", Purpose.READINESS, http(port), "127.0.0.1", eager=True))
        failed = await asyncio.wait_for(posted.get(), 5)
    await prober.close()
    assert isinstance(failed, ProbeFailed)
    assert failed.elsewhere == (listens and not answers)


async def test_a_command_is_run_in_the_container() -> None:
    posted: asyncio.Queue[Event] = asyncio.Queue()
    answers = ["it ended with exit code 1: no", ""]

    async def run_in(container_id: str, command: tuple[str, ...], timeout_s: float) -> str:
        assert (container_id, command, timeout_s) == ("c1", ("/bin/check",), 0.3)
        return answers.pop(0) if answers else ""

    prober = Prober(posted.put_nowait, SystemClock(), random.Random(1), run_in, deaf)
    probe = Probe("exec", 0, command=("/bin/check",), interval_s=0.02, timeout_s=0.3)
    prober.start(StartProbing("c1", Purpose.READINESS, probe, "", eager=True))
    async with asyncio.timeout(5):
        failed = await posted.get()
        assert isinstance(failed, ProbeFailed)
        assert failed.reason == "exec probe: /bin/check: it ended with exit code 1: no"
        assert await posted.get() == ProbeSucceeded("c1", Purpose.READINESS)
    await prober.close()


@pytest.mark.parametrize(("status", "said"), [("SERVING", ""), ("NOT_SERVING", "it says NOT_SERVING")])
async def test_grpc(status: str, said: str) -> None:
    servicer = HealthServicer()
    await servicer.set("db", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        reason = await ask(Probe("grpc", port, service="db", timeout_s=2.0), "127.0.0.1")
        unknown = await ask(Probe("grpc", port, service="other", timeout_s=2.0), "127.0.0.1")
    finally:
        await server.stop(None)
    assert reason.endswith(said)
    assert bool(reason) == bool(said)
    assert "NOT_FOUND" in unknown


async def test_grpc_of_a_port_where_nothing_listens() -> None:
    assert "UNAVAILABLE" in await ask(Probe("grpc", 1, timeout_s=2.0), "127.0.0.1")
