"""Floods, garbage, slow and greedy clients, changes and crashes: who asks properly is answered all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from routing.core.geo import Place
from tests.integration.routing.load import Load, made_up, named
from tests.integration.routing.rig import Rig, eventually
from tests.integration.routing.test_protocol import declared
from tests.integration.routing.test_serving import framed, read_answer
from tests.integration.routing.test_transfers import accept
from tests.integration.routing.test_workers import NETWORKS, complete

HELLO = dns.message.make_query("hello.example.net", "A", id=7).to_wire()


def rss_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("compiled", [True, False])
async def test_what_is_malformed_costs_nobody_else_an_answer(rig: Rig, compiled: bool) -> None:
    """Good and bad queries arrive together; each good one is answered."""
    rig.keep(declared(rig.edges.port))
    rng = random.Random(5)
    bad = [
        HELLO[:11] + b"\1" + HELLO[12:],
        HELLO[:11] + b"\1" + HELLO[12:] + b"\0\0\x29\4",
        b"",
        HELLO[:20],
        HELLO + b"x",
    ]
    async with rig.running(compiled=compiled, responses_per_second=0) as app:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            client.setblocking(False)
            for one in (client, other):
                one.connect(("127.0.0.1", app.ports[0]))
            for turn in range(20):
                for number in range(32):
                    client.send(bytes((turn, number)) + HELLO[2:])
                    changed = bytearray(HELLO)
                    changed[rng.randrange(2, len(changed))] = rng.randrange(256)
                    other.send(rng.choice((*bad, bytes(changed))))
                async with asyncio.timeout(20):
                    heard = {(await loop.sock_recv(client, 2000))[:2] for _ in range(32)}
                assert heard == {bytes((turn, number)) for number in range(32)}
        assert app.engine.broken == 0


@pytest.mark.parametrize("compiled", [True, False])
async def test_changes_under_load_lose_no_question(rig: Rig, compiled: bool) -> None:
    """New tables, new maps and changes of health, one after the other."""
    resources = declared(rig.edges.port)
    rig.keep(resources)
    async with rig.running(compiled=compiled, responses_per_second=0) as app:
        (port,) = app.ports
        loads = [Load(port, named("hello.example.net")), Load(port, named("nope.example.net"), source="127.0.9.1")]
        async with loads[0].running(), loads[1].running():
            for turn in range(20):
                for resource in resources:
                    if resource.name.startswith("zones/"):
                        resource.zone.serial, resource.version = 8 + turn, str(8 + turn)
                accept(rig, app, resources)
                await asyncio.sleep(0.02)
                app.engine.take_geo(lambda _, turn=turn: (Place(50.0 + turn, 8.0), 24))  # type: ignore[misc]
                await asyncio.sleep(0.02)
        for load, rcode in zip(loads, (0, 3), strict=True):
            assert load.lost == 0
            assert load.rcodes == {rcode: load.asked}
            assert load.asked > 500


async def test_a_flood_of_made_up_names_takes_nothing_from_those_that_exist(rig: Rig) -> None:
    """Neither answers nor memory; the flood comes from many networks, so that no limit ends it."""
    rig.keep(declared(rig.edges.port))
    async with rig.running(responses_per_second=0) as app:
        (port,) = app.ports
        floods = [Load(port, made_up("example.net"), source=f"127.0.{n}.1", window=200, patience_s=0.5) for n in (8, 9)]
        floods.append(Load(port, made_up("dev.example.net"), source="127.0.10.1", window=200, patience_s=0.5))
        async with contextlib.AsyncExitStack() as stack:
            for flood in floods:
                await stack.enter_async_context(flood.running())
            await eventually(lambda: sum(flood.asked for flood in floods) > 10_000)
            before = rss_bytes()
            async with Load(port, named("hello.example.net")).running() as load:
                await eventually(lambda: sum(flood.asked for flood in floods) > 40_000)
        assert load.lost == 0
        assert load.rcodes == {0: load.asked}
        assert load.asked > 500
        assert rss_bytes() - before < 32 << 20


async def test_spoofed_sources_fill_no_memory(rig: Rig) -> None:
    """More networks than are counted, each with a name of its own."""
    rig.keep(declared(rig.edges.port))
    async with rig.running(compiled=False) as app:
        rng = random.Random(3)
        names = made_up("dev.example.net")
        for number in range(120_000):
            source = bytes((20 + (number >> 16), number >> 8 & 255, number & 255, 1))
            if number % 4 == 0:
                app.engine.respond(names(rng), source, False)
            else:
                app.engine.limiter.admit(source, b"hello")
        assert len(app.engine.limiter.room()) <= 100_000


async def test_a_worker_that_is_killed_under_load_takes_only_its_own_questions(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(workers=3, responses_per_second=0) as app:
        (port,) = app.ports
        (first, _) = await complete(app)
        loads = [Load(port, named("hello.example.net"), source=source, window=4) for source in NETWORKS[:8]]
        async with contextlib.AsyncExitStack() as stack:
            for load in loads:
                await stack.enter_async_context(load.running())
            await eventually(lambda: all(load.answered > 50 for load in loads))
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: first not in app.workers.processes())
            await complete(app)
            answered = [load.answered for load in loads]
            await eventually(lambda: all(load.answered > one + 50 for load, one in zip(loads, answered, strict=True)))
        assert sum(load.lost for load in loads) <= 8 * 4, "no more than was under way"


async def test_slow_and_silent_connections_do_not_keep_others_out(rig: Rig) -> None:
    """Far more than may be open, from one network; they say nothing, or a byte now and then."""
    rig.keep(declared(rig.edges.port))
    async with rig.running(tcp_connections_max=64, tcp_connections_per_network=16, tcp_idle_s=30.0) as app:
        (port,) = app.ports
        patient = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.99.1", 0))
        crowd = []
        for _ in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.98.1", 0))
            writer.write(b"\0")
            crowd.append(writer)
        await eventually(lambda: app.counts().connections <= 17)
        # The crowd has put an end to its own connections, not to that of another network.
        patient[1].write(framed(dns.message.from_wire(HELLO)))
        assert (await read_answer(patient[0])).rcode() == dns.rcode.NOERROR
        answer = await dns.asyncquery.tcp(dns.message.from_wire(HELLO), "127.0.0.1", port=port, timeout=20)
        assert answer.rcode() == dns.rcode.NOERROR
        for writer in (*crowd, patient[1]):
            writer.close()


async def test_a_client_that_asks_and_does_not_read_is_held_back_and_ended(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(tcp_idle_s=0.5) as app:
        before = rss_bytes()
        _, writer = await asyncio.open_connection("127.0.0.1", app.ports[0], limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        question = framed(dns.message.from_wire(HELLO)) * 200
        for _ in range(400):
            writer.write(question)
            if writer.transport.is_closing():
                break
            await asyncio.sleep(0)
        await eventually(lambda: app.counts().connections == 0)
        assert rss_bytes() - before < 32 << 20
        writer.transport.abort()
