"""Three `locci-server` processes on one real PostgreSQL: leaders are killed, stopped, cut from the database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from fleet.enrol import join
from fleet.identity import IdentityDirectory
from fleet.rpc.channel import operator_channel
from fleet.rpc.errors import from_rpc_error
from fleet.rpc.link import RECONNECT
from locci.v1 import node_pb2, region_pb2, region_pb2_grpc
from tests.fakes.ports import free_port
from tests.fakes.postgres import Postgres, postgres
from tests.integration.control_plane.rig import Host, until
from tests.integration.control_plane.test_registry import push, real

__all__ = ["real"]


class Server:
    """One of the processes."""

    def __init__(self, folder: Path, name: str):
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.ports = {port: free_port() for port in ("http", "grpc", "node")}
        self.config = self.folder / "server.toml"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def endpoints(self) -> dict[str, str]:
        return {port: f"127.0.0.1:{number}" for port, number in self.ports.items()}

    @property
    def data(self) -> Path:
        return self.folder / "data"

    async def run(self, *command: str) -> asyncio.subprocess.Process:
        with (self.folder / "log").open("ab") as log:
            argv = (sys.executable, "-m", "control_plane.main", *command, "--config", str(self.config))
            return await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)

    async def start(self) -> None:
        self.process = await self.run("run")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.signal(number)
        code = await asyncio.wait_for(self.process.wait(), 60)
        self.process = None
        return code


class Trio:
    """Three control planes, a database, and simulated hosts."""

    def __init__(self, folder: Path, database: Postgres, registry: str):
        self.folder = folder
        self.database = database
        self.name = f"d{folder.name.replace('-', '_')}"
        self.url = database.create(self.name)
        self.servers = [Server(folder, name) for name in ("a", "b", "c")]
        self.hosts: dict[str, Host] = {}
        for server in self.servers:
            lines = {
                "data_dir": str(server.data),
                "database_url": self.url,
                "peer_address": "127.0.0.1",
                "lease_ttl_s": 3.0,
                "advertise": [s.endpoints["node"] for s in self.servers],
                "insecure_registries": [registry],
                "heartbeat_interval_s": 0.2,
                "suspect_after_s": 2.0,
                "restart_grace_s": RECONNECT.cap_s + 1,
            } | {f"{port}_listen": address for port, address in server.endpoints.items()}
            server.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))

    async def start(self) -> None:
        """As an operator would: the first is made, the others get its CA and keys."""
        first = self.servers[0]
        assert await (await first.run("init")).wait() == 0, (first.folder / "log").read_text()
        for other in self.servers[1:]:
            other.data.mkdir()
            for name in ("master.key", "admin.token"):
                shutil.copy(first.data / name, other.data / name)
        for server in self.servers:
            await server.start()
        for server in self.servers:
            await until(lambda server=server: self.ready(server), f"{server.name} answers")

    async def ask(self, server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = (self.servers[0].data / "admin.token").read_text().strip()
        url = f"https://{server.endpoints['http']}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
                session.request(method, url, json=body, headers={"Authorization": f"Bearer {token}"}, ssl=False) as got,
            ):
                return got.status, json.loads(await got.read() or b"{}") if path.startswith("/v1") else None
        except (aiohttp.ClientError, OSError):
            return 0, None

    async def ready(self, server: Server) -> bool:
        return (await self.ask(server, "GET", "/readyz"))[0] == 200

    async def get(self, server: Server, path: str) -> Any:
        """What it answers, asked again while nobody leads."""

        async def answer() -> Any:
            status, body = await self.ask(server, "GET", path)
            assert status in (0, 200, 503), body
            return [body] if status == 200 else None

        return (await until(answer, path))[0]

    async def post(self, server: Server, path: str, body: Any) -> Any:
        status, answer = await self.ask(server, "POST", path, body)
        assert status == 200, answer
        return answer

    def lease(self) -> tuple[str, int]:
        """The leader's HTTP address and its epoch."""
        (row,) = self.database.query(self.name, "SELECT endpoints, epoch FROM leases WHERE expire_time > now()") or [
            "|0"
        ]
        endpoints, _, epoch = row.partition("|")
        return (json.loads(endpoints)["http"] if endpoints else "", int(epoch))

    async def leader(self, *, other_than: Server | None = None) -> Server:
        def found() -> Server | None:
            address, _ = self.lease()
            leader = next((s for s in self.servers if s.endpoints["http"] == address), None)
            return leader if leader is not other_than else None

        server: Server = await until(found, "one leads")
        await until(lambda: self.ready(server), "the leader answers")
        return server

    async def host(self, node: str) -> Host:
        token = (await self.post(self.servers[1], "/v1/joinTokens", {"region": "regions/eu"}))["token"]
        directory = IdentityDirectory(self.folder / f"identity-{node}")
        await join(
            server=f"https://{self.servers[2].endpoints['http']}",
            token=token,
            node_id=node,
            addresses=["192.0.2.1"],
            directory=directory,
            facts=node_pb2.NodeFacts(hostname=node, architecture="amd64"),
        )
        host = Host(directory, self.folder / f"{node}.snapshot", node_pb2.NODE_ROLE_EDGE, ["replicas", "routes"])
        self.hosts[node] = host
        host.connect()
        return host

    async def condition(self, server: Server, wanted: str) -> None:
        async def reached() -> bool:
            nodes = (await self.get(server, "/v1/nodes"))["nodes"]
            return {n["condition"] for n in nodes} == {f"NODE_CONDITION_{wanted}"}

        await until(reached, f"all nodes are {wanted}")

    async def events(self, server: Server, kind: str) -> list[Any]:
        return list((await self.get(server, f"/v1/events?type={kind}&page_size=500")).get("events", []))

    async def close(self) -> None:
        for host in self.hosts.values():
            await host.disconnect()
        for server in self.servers:
            if server.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    server.process.kill()
                await server.process.wait()


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "postgres") as running:
            yield running


@pytest.fixture
async def trio(tmp_path: Path, database: Postgres, real: str) -> AsyncIterator[Trio]:
    trio = Trio(tmp_path, database, real)
    for tag in ("1", "2"):
        await push(real, f"hello{tag}", tag)
    try:
        await trio.start()
        yield trio
    finally:
        await trio.close()
        for log in sorted(tmp_path.glob("*/log")):
            print(f"---- {log.parent.name}\n{log.read_text()}")


def manifest(registry: str, tag: str) -> dict[str, Any]:
    rollout = {"healthy_for": "0.8s", "health_deadline": "20s", "max_surge": 1, "max_unavailable": 0}
    return {
        "manifest": {
            "name": "hello",
            "image": f"{registry}/hello{tag}:{tag}",
            "ports": [{"name": "http", "container_port": 8080}],
            "hostnames": ["hello.example.net"],
            "placement": {"regions": ["eu"], "replicas_per_region": 4},
            "rollout": rollout,
        }
    }


async def asking(trio: Trio, server: Server, answers: list[int]) -> None:
    while True:
        answers.append((await trio.ask(server, "GET", "/v1/apps"))[0])
        await asyncio.sleep(0.05)


async def test_another_finishes_what_a_killed_leader_began(trio: Trio, real: str) -> None:
    _, b, c = trio.servers
    await trio.post(c, "/v1/regions?region_id=eu", {"latitude": 50})
    hosts = [await trio.host(f"eu-{number}") for number in range(4)]
    await trio.condition(b, "READY")
    await trio.post(b, "/v1/apps:apply", manifest(real, "1"))
    await until(lambda: len([n for h in hosts for n, s in h.running.items() if s.ready]) == 4, "the first release runs")

    async def succeeded(rollout: int) -> bool:
        for server in trio.servers:
            if server.process is not None:
                got = await trio.get(server, f"/v1/apps/hello/rollouts/{rollout}")
                return bool(got["state"] == "ROLLOUT_STATE_SUCCEEDED")
        return False

    await until(lambda: succeeded(1), "the first rollout")
    leader = await trio.leader()
    _, epoch = trio.lease()
    survivor = next(s for s in trio.servers if s is not leader)
    answers: list[int] = []
    watching = asyncio.create_task(asking(trio, survivor, answers))
    first = {name for host in hosts for name in host.started}
    await trio.post(survivor, "/v1/apps:apply", manifest(real, "2"))
    await until(lambda: any(set(host.started) - first for host in hosts), "it has begun")
    await leader.end(signal.SIGKILL)
    assert not await succeeded(2)
    await until(lambda: succeeded(2), "another has finished it")
    assert trio.lease()[1] > epoch

    # Nothing was done twice: no container was started anew, and what ended ended once.
    started = [name for host in hosts for name in host.started]
    assert len(started) == len(set(started)) == 8, started
    assert len(await trio.events(survivor, "RolloutSucceeded")) == 2
    assert await trio.events(survivor, "NodeLost") == []
    watching.cancel()
    assert set(answers) <= {0, 200, 503}
    assert answers[-1] == 200

    # Who was killed comes back, and sends on.
    await leader.start()
    await until(lambda: trio.ready(leader), "it answers again")
    assert (await trio.get(leader, "/v1/apps"))["apps"][0]["name"] == "apps/hello"

    # Told to end, a leader gives the lease back: another has it at once.
    second = await trio.leader()
    assert await second.end(signal.SIGTERM) == 0
    third = await trio.leader(other_than=second)
    await trio.condition(third, "READY")
    assert sorted(name for host in hosts for name in host.running) == sorted(set(started) - first)


async def test_a_leader_that_slept_does_not_write(trio: Trio) -> None:
    a, *_ = trio.servers
    await trio.post(a, "/v1/regions?region_id=eu", {"latitude": 50})
    await trio.host("eu-1")
    await trio.condition(a, "READY")
    sleeper = await trio.leader()
    _, epoch = trio.lease()
    sleeper.signal(signal.SIGSTOP)
    other = await trio.leader(other_than=sleeper)
    await trio.condition(other, "READY")
    await trio.post(other, "/v1/regions?region_id=us", {"latitude": 40})
    sleeper.signal(signal.SIGCONT)
    # It sends on what it is asked, as one that follows does.
    await until(lambda: trio.ready(sleeper), "it answers")
    regions = (await trio.get(sleeper, "/v1/regions"))["regions"]
    assert [r["name"] for r in regions] == ["regions/eu", "regions/us"]
    await trio.post(sleeper, "/v1/regions?region_id=ap", {"latitude": 1})
    held_at, held_epoch = trio.lease()
    assert (held_at, held_epoch > epoch) == (other.endpoints["http"], True)
    assert await trio.events(other, "NodeLost") == []


async def test_the_database_goes_and_comes(trio: Trio, database: Postgres) -> None:
    a, b, _ = trio.servers
    await trio.post(a, "/v1/regions?region_id=eu", {"latitude": 50})
    host = await trio.host("eu-1")
    await trio.condition(a, "READY")
    database.stop()
    try:

        async def refused() -> Any:
            status, body = await trio.ask(b, "GET", "/v1/apps")
            return body if status == 503 else None

        problem = await until(refused, "it is said that nobody leads")
        assert problem["reason"] == "NO_LEADER"
        token = (a.data / "admin.token").read_text().strip()
        trust = json.loads((a.data / "context.json").read_text())["ca_pem"].encode()
        async with operator_channel(b.endpoints["grpc"], trust, token) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await region_pb2_grpc.RegionServiceStub(channel).ListRegions(region_pb2.ListRegionsRequest())
        assert from_rpc_error(error.value).reason == "NO_LEADER"
        assert (await trio.ask(b, "GET", "/healthz"))[0] == 200
    finally:
        database.start()
    await until(lambda: trio.ready(b), "it answers again")
    await trio.condition(b, "READY")
    assert (await trio.get(b, "/v1/regions"))["regions"][0]["name"] == "regions/eu"
    await until(lambda: host.link.connected, "the host is back")


async def test_one_that_is_not_of_this_fleet_is_refused(trio: Trio) -> None:
    stranger = Server(trio.folder, "stranger")
    stranger.config.write_text(
        trio.servers[0].config.read_text().replace(str(trio.servers[0].data), str(stranger.data))
    )
    log = stranger.folder / "log"
    for _ in range(2):
        process = await stranger.run("run")
        assert await asyncio.wait_for(process.wait(), 60) == 1
        assert "copy master.key and admin.token from another control plane" in log.read_text()
        assert not stranger.data.exists()
    process = await stranger.run("init")
    assert await asyncio.wait_for(process.wait(), 60) == 1
    assert "a control plane leads already" in log.read_text()


async def test_a_backup_moves_between_databases(trio: Trio, database: Postgres) -> None:
    a, b, c = trio.servers
    await trio.post(b, "/v1/regions?region_id=eu", {"latitude": 50})
    await trio.post(c, "/v1/backups", {"backup_id": "one", "passphrase": "correct horse battery"})

    async def made() -> bool:
        row = await trio.get(b, "/v1/backups/one")
        assert row["state"] != "STATE_FAILED", row
        return bool(row["state"] == "STATE_READY")

    await until(made, "a backup over the API, whichever leads")
    (trio.folder / "passphrase").write_text("correct horse battery\n")
    secret = ("--passphrase-file", str(trio.folder / "passphrase"))
    file = str(trio.folder / "one.backup")
    shared, alone = Server(trio.folder, "shared"), Server(trio.folder, "alone")
    for fresh, url in ((shared, database.create(f"{trio.name}_again")), (alone, "")):
        text = a.config.read_text().replace(str(a.data), str(fresh.data)).replace(trio.url, url)
        for port, address in a.endpoints.items():
            text = text.replace(f'{port}_listen = "{address}"', f'{port}_listen = "{fresh.endpoints[port]}"')
        fresh.config.write_text(text)
    await ended(await a.run("backup", "create", file, *secret), 0)
    # From PostgreSQL to both; and from the SQLite file that was made of it to nowhere where something is already.
    for fresh in (shared, alone):
        await ended(await fresh.run("backup", "restore", file, *secret), 0)
        assert (fresh.data / "master.key").read_bytes() == (a.data / "master.key").read_bytes()
        assert (fresh.data / "locci.db").exists() == (fresh is alone)
    shutil.rmtree(shared.data)
    await ended(await shared.run("backup", "restore", file, *secret), 1)
    assert "only restored into an empty database" in (shared.folder / "log").read_text()
    assert not shared.data.exists()
    shutil.copytree(a.data, shared.data)
    again = str(trio.folder / "two.backup")
    await ended(await alone.run("backup", "create", again, *secret), 0)
    trio.servers += [shared, alone]
    for fresh in (shared, alone):
        await fresh.start()
        await until(lambda fresh=fresh: trio.ready(fresh), "it answers")
        assert [r["name"] for r in (await trio.get(fresh, "/v1/regions"))["regions"]] == ["regions/eu"]


async def ended(process: asyncio.subprocess.Process, code: int) -> None:
    assert await asyncio.wait_for(process.wait(), 60) == code
