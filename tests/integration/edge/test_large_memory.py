"""What a worker's memory does when clients ask for much and take little."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.edge import fill
from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin, Seen
from tests.fakes.ports import free_port
from tests.integration.edge.client import Client, until
from tests.integration.edge.conftest import MakeEdge
from tests.integration.edge.test_client_tls import material

MIB = 2**20
BODY = bytes(range(256)) * (24 * MIB // 256)
CLIENTS = 60
CACHE_BYTES = 48 * MIB


async def large(seen: Seen) -> None:
    """Of known length, of unknown length, or larger than what is stored."""
    if seen.target.startswith("/chunks"):
        await seen.send(b"HTTP/1.1 200 X\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(96):
            await seen.send(b"40000\r\n" + BODY[:0x40000] + b"\r\n")
        await seen.send(b"0\r\n\r\n")
    elif seen.target.startswith("/monster"):
        await seen.send(b"HTTP/1.1 200 X\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % (4 * len(BODY)))
        for _ in range(4):
            await seen.send(BODY)
    else:
        await seen.answer(200, BODY, Cache_Control="max-age=60", ETag='"1"')


class Process:
    """A worker of its own."""

    def __init__(self, pid: int, port: int, secure_port: int):
        self.pid, self.port, self.secure_port = pid, port, secure_port

    @property
    def mib(self) -> float:
        process = psutil.Process(self.pid)
        return max(each.memory_info().rss for each in (process, *process.children(recursive=True))) / MIB


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Process]:
    origin = await Origin(large).start()
    agent = FakeAgent(tmp_path)
    await agent.start()
    wanted = config(1, [route("hello", ["hello.test"], [origin.address], object_bytes_max=32 * MIB)])
    wanted.certificates.append(material("hello", "hello.test"))
    await agent.send(wanted)
    port, secure_port = free_port(), free_port()
    settings = tmp_path / "edge.toml"
    settings.write_text(
        f'http_listen = ["127.0.0.1:{port}"]\nhttps_listen = ["127.0.0.1:{secure_port}"]\npeer_listen = ""\n'
        f'admin_listen = ""\nrun_dir = "{tmp_path}"\nstate_dir = "{tmp_path}/state"\nworkers = 1\n'
        f"ram_cache_bytes = {CACHE_BYTES}\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.edge.main", "run", "--config", str(settings), stdout=asyncio.subprocess.DEVNULL
    )
    await until(lambda: bool(agent.acks), 60)
    yield Process(process.pid, port, secure_port)
    process.kill()
    await process.wait()
    await agent.stop()
    await origin.stop()


async def idler(worker: Process, request: str, *, secure: bool) -> Client:
    """A client that asks and takes next to nothing."""
    context = ssl._create_unverified_context() if secure else None
    port, name = (worker.secure_port, "hello.test") if secure else (worker.port, None)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name, limit=1024)
    writer.write(f"GET {request}\r\n\r\n".encode())
    return Client(reader, writer)


async def steady(value: Callable[[], float]) -> float:
    """The value once it has not grown for a second."""
    most, since = value(), 0
    while since < 6:
        await asyncio.sleep(0.1)
        now = value()
        most, since = (now, 0) if now > most + 1 else (most, since + 1)
    return most


def asked(kind: str, number: int) -> str:
    match kind:
        case "one":
            return "/one HTTP/1.1\r\nHost: hello.test"
        case "range":
            return "/one HTTP/1.1\r\nHost: hello.test\r\nRange: bytes=1-"
        case "ranges":
            return f"/one HTTP/1.1\r\nHost: hello.test\r\nRange: bytes=0-{len(BODY) // 2},{len(BODY) // 2 + 2}-"
        case _:
            return f"/{kind}/{number} HTTP/1.1\r\nHost: hello.test"


@pytest.mark.drill
@pytest.mark.parametrize(
    ("kind", "secure"),
    [("one", True), ("range", False), ("ranges", True), ("many", False), ("chunks", True), ("monster", False)],
)
async def test_clients_that_take_nothing(worker: Process, kind: str, secure: bool) -> None:
    async with await Client.open(worker.port) as client:
        assert (await client.get("/one")).body == BODY
    before = worker.mib
    work: list[Coroutine[Any, Any, Client]] = [
        idler(worker, asked(kind, number), secure=secure) for number in range(CLIENTS)
    ]
    clients = await asyncio.gather(*work)
    most = await steady(lambda: worker.mib)
    for client in clients:
        with contextlib.suppress(OSError):
            client.writer.transport.abort()
    async with await Client.open(worker.port) as client:
        assert (await client.get("/one")).body == BODY
    print(f"{before:.0f} MiB before, {most:.0f} MiB with {CLIENTS} clients")
    # What is stored, fetched (64 MiB at least) and lent, and a copy on its way; what waits for each client.
    assert most - before < 4 * 64 + CLIENTS * 2


async def test_who_takes_nothing_of_an_endless_body_is_left_behind(
    make_edge: MakeEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "LAG_S", 0.2)
    both_wait = asyncio.Event()

    async def endless(seen: Seen) -> None:
        await both_wait.wait()
        await large(seen)

    origin = await Origin(endless).start()
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address], object_bytes_max=MIB))
    slow = Client(*await asyncio.open_connection("127.0.0.1", edge.port, limit=1024))
    await slow.send(b"GET /chunks HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await until(lambda: bool(edge.worker.state.fills))
    async with await Client.open(edge.port) as quick, asyncio.timeout(60):
        await quick.send(b"GET /chunks HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        await until(lambda: edge.counters.fills_joined_total == 1)
        both_wait.set()
        assert (await quick.read()).body == BODY[:0x40000] * 96
    assert len(origin.seen) == 1
    assert not (await slow.read()).whole
    slow.writer.close()
    await origin.stop()
