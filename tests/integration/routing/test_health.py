"""Own probes, the feed, and what is told: with real edges and a real stream."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import dns.exception
import pytest

from fleet.errors import LocciError
from locci.v1 import agent_pb2
from routing.app import DnsApp
from tests.fakes.ports import free_port
from tests.integration.routing.load import Load, named
from tests.integration.routing.rig import Rig, addresses, as_json, eventually
from tests.unit.routing.adapters.mmdb import write
from tests.unit.routing.adapters.resources import region, whole

EU_CLIENT = "10.1.7.0"


async def answers(app: DnsApp, wanted: set[str]) -> None:
    """Waits until clients in Europe get these addresses."""

    async def right() -> bool:
        return await addresses(app.ports[0], subnet=EU_CLIENT) == wanted

    await eventually(right)


async def test_with_no_control_plane_it_serves_withdraws_and_restores(rig: Rig) -> None:
    async with rig.running() as app:
        assert await addresses(app.ports[0], subnet=EU_CLIENT) == {"127.0.1.1"}
        await eventually(lambda: app.engine.probes["good"] >= 3)
        rig.edges.silent.add("eu")
        await answers(app, {"127.0.1.2"})
        rig.edges.silent.clear()
        await answers(app, {"127.0.1.1"})


async def test_a_refusing_and_a_draining_edge(rig: Rig) -> None:
    async with rig.running() as app:
        await eventually(lambda: app.engine.probes["good"] >= 3)
        rig.edges.stop("eu")
        await answers(app, {"127.0.1.2"})
        rig.edges.status["us"] = "503 Service Unavailable"
        await answers(app, {"127.0.1.3"})


async def test_all_down_is_answered_with_all(rig: Rig) -> None:
    async with rig.running() as app:
        for place in ("eu", "us", "ap"):
            rig.edges.stop(place)
        await eventually(lambda: not app.engine.brain.rotation())
        assert await addresses(app.ports[0], subnet=EU_CLIENT) == {"127.0.1.1", "127.0.1.2", "127.0.1.3"}


async def test_the_feed(rig: Rig) -> None:
    async with rig.control_plane() as control_plane, rig.running() as app:
        await eventually(lambda: bool(control_plane.said("status")))
        hello = control_plane.heard[0].hello
        assert (list(hello.resource_types), hello.revision) == (
            ["hostnames", "latencies", "regions", "zonekeys", "zones"],
            7,
        )
        moved = [r for r in whole(rig.edges.port) if not r.name.startswith("hostnames/")]
        control_plane.feed(moved, 8)
        await eventually(lambda: bool(control_plane.said("ack")))
        assert await addresses(app.ports[0]) == set()
        broken = region("eu", version="3")
        broken.region.networks.append("10.1.0.0/8")
        control_plane.feed([*(r for r in moved if r.name != broken.name), broken], 9)
        await eventually(lambda: bool(control_plane.said("nack")))
        (problem,) = control_plane.said("nack")[0].nack.problems
        assert problem.name == "regions/eu"
        assert "10.1.0.0/8 has host bits set" in problem.message
        control_plane.feed(whole(rig.edges.port), 10)
        await eventually(lambda: app.engine.table.revision == 10)
        assert await addresses(app.ports[0], subnet=EU_CLIENT) == {"127.0.1.1"}


async def test_withdrawals_are_told_with_evidence(rig: Rig) -> None:
    async with rig.control_plane() as control_plane, rig.running() as app:
        await eventually(lambda: app.engine.brain.feed_alive and app.engine.probes["good"] >= 3)
        rig.edges.silent.add("eu")

        def found() -> list[agent_pb2.ProbeResult]:
            last = control_plane.said("evidence")[-1:]
            return [r for m in last for r in m.evidence.results if r.endpoint == "nodes/eu-1"]

        await eventually(lambda: any(not result.healthy and result.in_rotation for result in found()))
        await eventually(lambda: "RegionWithdrawn" in control_plane.events())
        await eventually(lambda: any(not result.healthy and not result.in_rotation for result in found()))
        rig.edges.silent.clear()
        await eventually(lambda: "RegionRestored" in control_plane.events())
        assert control_plane.events() == ["EndpointWithdrawn", "RegionWithdrawn", "EndpointRestored", "RegionRestored"]


async def test_the_geo_database_is_reloaded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either schema, replaced or overwritten where it lies; meanwhile every question is answered."""
    monkeypatch.setattr("routing.app._GEO_CHECK_S", 0.05)
    path = rig.path / "geo.mmdb"
    write(path, {"198.51.100.0/24": {"country_code": "JP"}})
    replacement = rig.path / "new"
    async with rig.running(geo_database=str(path), responses_per_second=0) as app:
        (port,) = app.ports
        assert await addresses(port, subnet="198.51.100.0") == {"127.0.1.3"}

        async def answered(address: str) -> bool:
            return await addresses(port, subnet="198.51.100.0") == {address}

        async with Load(port, named("hello.example.net")).running() as load:
            for country, address in (("FR", "127.0.1.1"), ("US", "127.0.1.2"), ("JP", "127.0.1.3")):
                more = {f"203.{n >> 8}.{n & 255}.0/24": {"country_code": country} for n in range(2000)}
                write(replacement, {"198.51.100.0/24": {"country_code": country}} | more)
                replacement.replace(path)
                await eventually(lambda address=address: answered(address))  # type: ignore[misc]
                write(path, {"198.51.100.0/24": {"country": {"iso_code": "FR"}}}, "GeoLite2-Country")
                await eventually(lambda: answered("127.0.1.1"))
        assert load.lost == 0
        assert load.asked > 500


async def serving(port: int) -> bool:
    try:
        return bool(await addresses(port, subnet=EU_CLIENT, timeout_s=0.2))
    except (OSError, dns.exception.DNSException):
        return False


async def test_the_program_survives_kill_9_and_stops_when_asked(rig: Rig) -> None:
    """After kill -9 it serves at once what it knew, the withdrawal included."""
    rig.edges.stop("eu")
    port = free_port()
    first = await rig.spawn(port)
    second = None
    try:
        await eventually(lambda: serving(port))

        async def withdrawn() -> bool:
            return await addresses(port, subnet=EU_CLIENT) == {"127.0.1.2"}

        await eventually(withdrawn)
        verdicts = rig.path / "state" / "verdicts.json"
        await eventually(lambda: verdicts.exists() and '"eu-1/4": false' in verdicts.read_text())
        code, out, _ = await rig.call("status")
        assert code == 0
        status = as_json(out)
        assert status["revision"] == 7
        assert status["regions"] == {"ap": True, "eu": False, "us": True}
        code, out, _ = await rig.call("explain", "hello.example.net", "--from", "10.1.7.7")
        assert code == 0
        assert "in the networks of region eu" in out
        assert "eu dropped: no edge in rotation" in out
        assert "connection refused" in out
        code, _, err = await rig.call("explain", "nope.example.net", "--from", "10.1.7.7")
        assert (code, "no app's hostname" in err) == (1, True)
        code, _, err = await rig.call("explain", "hello.example.net", "--from", "nowhere")
        assert (code, "from:" in err) == (2, True)
        first.kill()
        await first.wait()
        second = await rig.spawn(port)
        await eventually(lambda: serving(port))
        assert await addresses(port, subnet=EU_CLIENT) == {"127.0.1.2"}
        second.terminate()
        async with asyncio.timeout(30):
            assert await second.wait() == 0
        code, _, err = await rig.call("status")
        assert (code, "no locci-dns is running" in err) == (1, True)
    finally:
        for process in (first, second):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


async def test_bad_starts(rig: Rig, tmp_path: Path) -> None:
    (rig.path / "dns.toml").write_text("nonsense = 1\n")
    code, _, err = await rig.call("run")
    assert (code, "nonsense" in err) == (2, True)
    (rig.path / "dns.toml").write_text(f'identity_dir = "{tmp_path}/none"\nstate_dir = "{tmp_path}/state"\n')
    code, _, err = await rig.call("run")
    assert (code, "has not joined" in err) == (1, True)
    code, _, err = await rig.call("join", "--server", "https://127.0.0.1:1", "--token", "wrong")
    assert (code, "not a join token" in err) == (2, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        rig.join()
        app = DnsApp(rig.settings(listen=[f"127.0.0.1:{taken.getsockname()[1]}"]))
        with pytest.raises(LocciError, match="cannot listen there"):
            await app.start()
        await app.close()
