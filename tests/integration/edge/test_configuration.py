from __future__ import annotations

import asyncio
import struct

from tests.fakes.edge_agent import config, route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


async def test_a_configuration_is_on_disk_before_it_is_acknowledged(edge: Edge, origin: Origin) -> None:
    await until(lambda: bool(edge.agent.acks))
    assert edge.agent.hellos[0].generation == 0
    assert edge.agent.hellos[0].pid > 0
    assert (edge.agent.acks[0].generation, edge.agent.acks[0].refused_reason) == (1, "")
    assert (edge.path / "state" / "config.pb").exists()


async def test_an_edge_boots_without_its_agent(make_edge: MakeEdge, edge: Edge, origin: Origin) -> None:
    from agent.edge.app import Worker

    await edge.agent.stop()
    await edge.worker.stop()
    edge.worker = Worker(edge.settings)
    await edge.worker.start()
    assert (await fetch(edge.port)).status == 200
    assert (await fetch(edge.port, "/.well-known/locci/health")).status == 200


async def test_a_damaged_file_is_no_configuration(make_edge: MakeEdge, edge: Edge) -> None:
    from agent.edge.app import Worker

    await edge.agent.stop()
    await edge.worker.stop()
    (edge.path / "state" / "config.pb").write_bytes(b"\xff\xff\xff garbage")
    edge.worker = Worker(edge.settings)
    await edge.worker.start()
    assert (await fetch(edge.port, "/.well-known/locci/health")).status == 503
    await edge.agent.start()
    await until(lambda: edge.worker.state.table.generation == 1)


async def test_a_worker_without_one_takes_what_another_was_told(edge: Edge) -> None:
    from agent.edge.app import Worker

    await edge.agent.stop()
    await edge.worker.stop()
    file = edge.path / "state" / "config.pb"
    told = file.read_bytes()
    file.unlink()
    edge.worker = Worker(edge.settings)
    await edge.worker.start()
    assert (await fetch(edge.port)).status == 503
    file.write_bytes(told)
    await until(lambda: edge.worker.state.table.generation == 1)
    assert (await fetch(edge.port)).status == 200


async def test_the_agent_goes_and_comes_and_no_request_is_lost(edge: Edge, origin: Origin) -> None:
    failed = asked = 0
    stop = asyncio.Event()

    async def ask() -> None:
        nonlocal failed, asked
        async with await Client.open(edge.port) as client:
            while not stop.is_set():
                asked += 1
                failed += (await client.get(f"/{asked}")).status != 200
                await asyncio.sleep(0.001)

    workers = [asyncio.create_task(ask()) for _ in range(4)]
    await edge.agent.stop()
    await asyncio.sleep(0.1)
    other = await Origin().start()
    edge.agent.config = config(2, [route("hello", ["hello.test"], [other.address])])
    await edge.agent.start()
    await until(lambda: edge.worker.state.table.generation == 2)
    assert edge.agent.hellos[-1].generation == 1
    seen = asked
    await until(lambda: asked > seen + 50)
    stop.set()
    await asyncio.gather(*workers)
    assert failed == 0
    assert other.seen
    await other.stop()


async def test_a_bad_configuration_is_refused_and_the_old_one_stays(edge: Edge, origin: Origin) -> None:
    bad = [
        route("hello", ["Hello.Test"], [origin.address]),
        route("hello", ["hello.test"], ["nowhere"]),
        route("hello", ["hello.test"], ["127.0.0.1:99999"]),
    ]
    for number, one in enumerate(bad):
        await edge.agent.send(config(10 + number, [one]))
        await until(lambda number=number: edge.agent.acks[-1].generation == 10 + number)  # type: ignore[misc]
        assert edge.agent.acks[-1].refused_reason
    await edge.agent.send(config(20, [route("a", ["hello.test"], []), route("b", ["hello.test"], [])]))
    await until(lambda: edge.agent.acks[-1].generation == 20)
    assert "both have the hostname hello.test" in edge.agent.acks[-1].refused_reason
    assert edge.worker.state.table.generation == 1
    assert (await fetch(edge.port)).status == 200


async def test_a_full_disk_refuses(edge: Edge, origin: Origin) -> None:
    state = edge.path / "state"
    (state / "config.pb").unlink()
    state.rmdir()
    state.write_text("in the way")
    await edge.agent.send(config(2, [route("hello", ["hello.test"], [])]))
    await until(lambda: edge.agent.acks[-1].generation == 2)
    assert "cannot be put on disk" in edge.agent.acks[-1].refused_reason
    assert (await fetch(edge.port)).status == 200


async def test_nonsense_from_the_agent(edge: Edge, origin: Origin) -> None:
    for data in (b"\xff\xff\xff\xff", struct.pack(">I", 5) + b"\xff\xff\xff\xff\xff", b"\x00"):
        hellos = len(edge.agent.hellos)
        await edge.agent.send_raw(data)
        if data == b"\x00":
            await edge.agent.stop()
            await edge.agent.start()
        await until(lambda hellos=hellos: len(edge.agent.hellos) > hellos)  # type: ignore[misc]
        assert (await fetch(edge.port)).status == 200


async def test_draining_is_reported_until_the_last_request_is_over(edge: Edge, origin: Origin) -> None:
    go_on = asyncio.Event()

    async def slow(seen: Seen) -> None:
        await go_on.wait()
        await seen.answer(200, b"done")

    origin.handler = slow
    other = await Origin().start()
    asking = asyncio.ensure_future(fetch(edge.port, "/", "POST", b"x"))
    await until(lambda: len(origin.seen) == 1)
    await edge.serve(route("hello", ["hello.test"], [other.address], draining=[origin.address]))
    name = "replicas/hello/1/1"
    await until(lambda: bool(edge.agent.drains) and edge.agent.drains[-1] == {name: 1})
    for _ in range(5):
        assert (await fetch(edge.port)).body == b"hello\n"
    go_on.set()
    assert (await asking).body == b"done"
    await until(lambda: edge.agent.drains[-1] == {name: 0})
    assert len(origin.seen) == 1
    edge.agent.drains.clear()
    await edge.serve(route("hello", ["hello.test"], [other.address], draining=[origin.address]))
    await until(lambda: edge.agent.drains == [{name: 0}])
    await other.stop()
