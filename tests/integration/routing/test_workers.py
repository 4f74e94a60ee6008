"""Several processes at one address: they answer alike, follow the first one, limit as one, and come back."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from fleet.errors import LocciError
from routing.app import DnsApp
from tests.fakes.ports import free_port
from tests.integration.routing.rig import Rig, eventually
from tests.integration.routing.test_protocol import declared

NETWORKS = tuple(f"127.0.{number}.1" for number in range(20, 44))
"""Clients in so many networks: with three processes each gets some."""


def ask(port: int, source: str, name: str = "hello.example.net", timeout_s: float = 10.0) -> dns.message.Message:
    """The answer to a client at an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.settimeout(timeout_s)
        client.sendto(dns.message.make_query(name, "A").to_wire(), ("127.0.0.1", port))
        return dns.message.from_wire(client.recv(4096))


async def answers(port: int, sources: Iterable[str] = NETWORKS) -> set[frozenset[str]]:
    """The addresses that clients of each network get."""
    found = set()
    for source in sources:
        message = await asyncio.to_thread(ask, port, source)
        found.add(frozenset(record.to_text() for rrset in message.answer for record in rrset))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def complete(app: DnsApp, number: int = 2) -> list[int]:
    """The process ids of all workers, once they answer."""
    await eventually(lambda: len(app.workers.processes()) == number)
    return app.workers.processes()


async def test_all_answer_and_follow_one_decision(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(workers=3) as app:
        (port,) = app.ports
        pids = await complete(app)
        everywhere = {frozenset({"127.0.1.1", "127.0.1.2", "127.0.1.3"})}
        assert await answers(port) == everywhere

        def counted() -> bool:
            return sum(app.counts().udp_rcodes) == len(NETWORKS)

        await eventually(counted)
        own = sum(app.engine.all_udp_rcodes())
        assert 0 < own < len(NETWORKS), "others have answered as well"

        rig.edges.stop("ap")

        async def followed() -> bool:
            return await answers(port) == {frozenset({"127.0.1.1", "127.0.1.2"})}

        await eventually(followed)
    assert not any(alive(pid) for pid in pids)


async def test_a_worker_that_dies_is_started_again(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(workers=3) as app:
        (port,) = app.ports
        before = await complete(app)
        await answers(port)
        await eventually(lambda: sum(app.counts().udp_rcodes) == len(NETWORKS))
        os.kill(before[0], signal.SIGKILL)
        await eventually(lambda: not alive(before[0]) and before[0] not in app.workers.processes())
        assert len(await answers(port)) == 1, "the others answer its clients"
        after = await complete(app)
        assert before[1] in after
        assert before[0] not in after
        await answers(port)
        await eventually(lambda: sum(app.counts().udp_rcodes) == 3 * len(NETWORKS))


async def test_a_network_has_one_limit(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(workers=3, responses_per_second=5, rate_limit_slip=0, cookies=False) as app:
        (port,) = app.ports
        await complete(app)
        for source in NETWORKS[:6]:
            assert await asyncio.to_thread(whole_answers, port, source) <= 10, "5 in each of at most two seconds"
        await eventually(lambda: app.counts().limited_dropped >= 6 * 50)


def whole_answers(port: int, source: str) -> int:
    """How many of 60 queries from as many ports at once are answered."""
    clients: list[socket.socket] = []
    query = dns.message.make_query("hello.example.net", "A").to_wire()
    try:
        for _ in range(60):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            clients.append(client)
            client.bind((source, 0))
            client.sendto(query, ("127.0.0.1", port))
        ready: set[socket.socket] = set()
        more = {*clients[:1]}
        while more:
            more = set(select.select([c for c in clients if c not in ready], (), (), 0.5)[0])
            ready |= more
        return sum(dns.message.from_wire(client.recv(4096)).rcode() == dns.rcode.NOERROR for client in ready)
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_all_end_with_the_first(rig: Rig, number: signal.Signals) -> None:
    """SIGTERM ends the program in order; when it is killed, its workers do not outlive it."""
    rig.keep(declared(rig.edges.port))
    port = free_port()
    process = await rig.spawn(port, workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    await eventually(lambda: len(children.read_text().split()) == 1)
    (worker,) = map(int, children.read_text().split())
    await eventually(lambda: Path("/proc/net/udp").read_text().count(f":{port:04X} ") == 2)
    process.send_signal(number)
    async with asyncio.timeout(10):
        code = await process.wait()
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    await eventually(lambda: not alive(worker))


async def test_a_port_of_another_program_is_not_shared(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(LocciError, match="cannot listen there"):
            async with rig.running(workers=2, listen=[taken]):
                raise AssertionError("it must not start")
