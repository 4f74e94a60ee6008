"""The control plane under a large fleet, and beside Docker Swarm on the same three hosts.

Ten thousand agents (LOCCI_BENCH_AGENTS), each a gRPC stream over mTLS, on one processor, the control plane on the
other: how soon all are there, how soon one change is accepted by all of them, how soon all are back after every
connection is cut at once, and what the API takes meanwhile. Heartbeats are scaled to the fleet (one in 20 s each).
Writes build/bench/control_plane.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from bench._fleet import Fleet, seed
from bench._harness import on_cpu, report, say
from bench._hosts import Ours, Swarm, lab, measure
from control_plane.settings import ServerSettings

AGENTS: Final = int(os.environ.get("LOCCI_BENCH_AGENTS", "10000"))
HEARTBEAT_S: Final = 20.0
DEADLINE_S: Final = 900.0
SECONDS_AT_REST: Final = 20.0
CHANGES: Final = 5
PAUSE_S: Final = 4.0
TURNS: Final = 3
APP: Final = "hello"
DIGEST: Final = "sha256:" + "0" * 64
MANIFEST: Final = {
    "name": APP,
    "hostnames": ["hello.example.net"],
    "ports": [{"name": "http", "container_port": 8080, "protocol": "PORT_PROTOCOL_HTTP"}],
    "placement": {"replicas_per_region": 1, "lost_after": "120s"},
}

Figure = dict[str, Any]


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Api:
    """The operators' API, as the first operator."""

    def __init__(self, settings: ServerSettings):
        self._base = f"https://{settings.http_listen}"
        self._directory = settings.data_dir
        self._tls = ssl.create_default_context(cafile=None)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Api]:
        """The client, while the block runs."""
        token = json.loads((self._directory / "context.json").read_text())["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=self._tls)) as session:
            self._session = session
            yield self

    async def call(self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
        """The JSON answer; an error raises."""
        async with self._session.request(method, self._base + path, json=body, params=query) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {answer}")
            return answer

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            async with self._session.get(self._base + "/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


@contextlib.asynccontextmanager
async def registry(port: int) -> AsyncIterator[None]:
    """Says that the image is there; nothing pulls it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Docker-Content-Digest": DIGEST})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def probing(settings: ServerSettings, folder: Path) -> Iterator[Path]:
    """Another process asks the API all the time; the file to which it writes how long each answer took."""
    found = folder / f"probe-{time.monotonic_ns()}"
    with on_cpu(
        1, [sys.executable, "-m", "bench._api_probe", str(settings.data_dir), str(found)], folder / "probe.log"
    ):
        yield found


def p95_ms(file: Path) -> float:
    """The 95th percentile of what was measured, in milliseconds."""
    taken = [float(line) for line in file.read_text().split()]
    return statistics.quantiles(taken, n=20)[-1] * 1000


async def large_fleet(folder: Path) -> list[Figure]:
    """The figures of the simulated fleet."""
    port = free_port()
    settings = ServerSettings(
        data_dir=folder / "server",
        http_listen=f"127.0.0.1:{free_port()}",
        grpc_listen=f"127.0.0.1:{free_port()}",
        node_listen=f"127.0.0.1:{free_port()}",
        advertise=["127.0.0.1"],
        heartbeats_per_s=AGENTS / HEARTBEAT_S,
        lost_after_s=6 * HEARTBEAT_S,
        rate_per_s=0,
        insecure_registries=[f"127.0.0.1:{port}"],
        log_level="warning",
    )
    say(f"{AGENTS} nodes are put into a new store")
    members, key, ca = await seed(settings, AGENTS)
    config = folder / "server.toml"
    values = settings.model_dump(exclude_defaults=True, mode="json")
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    command = [sys.executable, "-m", "control_plane.main", "run", "--config", str(config)]
    with on_cpu(0, command, folder / "server.log") as server:
        async with Api(settings).opened() as api:
            fleet = Fleet(members, key, ca, settings.node_listen, HEARTBEAT_S, seed=1)
            await until(api.ready, "the server answers", 60)
            async with registry(port):
                image = f"127.0.0.1:{port}/hello@{DIGEST}"
                await api.call("POST", "/v1/apps:apply", {"manifest": MANIFEST | {"image": image}})
            begun = time.monotonic()
            running = asyncio.create_task(fleet.run())
            await fleet.until(lambda: fleet.connected == AGENTS, "all are connected", DEADLINE_S, say)
            joined_s = time.monotonic() - begun
            say(f"all are connected after {joined_s:.1f} s")
            await fleet.until(lambda: settled(fleet), "all have been told", DEADLINE_S)
            cpu = processor_s(server.pid)
            beats, begun = fleet.beats, time.monotonic()
            with probing(settings, folder) as probe:
                await asyncio.sleep(SECONDS_AT_REST)
                share = (processor_s(server.pid) - cpu) / (time.monotonic() - begun)
                rate = (fleet.beats - beats) / (time.monotonic() - begun)
                say(f"at rest: {rate:.0f} beats/s, {share:.0%} of a processor, {resident_mb(server.pid):.0f} MiB")
                fanout = await fan_out(api, fleet)
            at_work = p95_ms(probe)
            with probing(settings, folder) as probe:
                storm = await reconnect(fleet)
            say(f"API p95 in the storm {p95_ms(probe):.1f} ms")
            judged = await api.call("GET", "/v1/events", query={"filter": 'type="NodeLost"'})
            lost = len(judged.get("events", []))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    if lost:
        raise RuntimeError(f"{lost} nodes were judged lost")
    absolute = [
        ("agents_10k", "processor share", share, 1.0),
        ("join_10k", "s", joined_s, 60.0),
        ("fanout_p50", "ms", statistics.median(fanout) * 1000, 5000.0),
        ("fanout_p99", "ms", statistics.quantiles(fanout, n=100)[-1] * 1000, 5000.0),
        ("storm", "s", storm, 60.0),
        ("api_p95", "ms", at_work, 50.0),
    ]
    return [
        {"figure": name, "peer": "target", "unit": unit, "ours": round(ours, 3), "theirs": theirs}
        | {"ratio": round(theirs / ours, 2)}
        for name, unit, ours, theirs in absolute
    ]


def settled(fleet: Fleet) -> bool:
    """Whether nothing was told to anyone for a while."""
    return time.monotonic() - max(agent.accepted_at for agent in fleet.agents) > 3.0


def beside_swarm() -> list[Figure]:
    """The figures on three hosts, ours and Docker Swarm's one after the other, in turns."""
    with lab("benchours", swarm=False) as hosts:
        ours = measure(hosts, Ours(hosts), TURNS)
    with lab("benchswarm", swarm=True) as hosts:
        theirs = measure(hosts, Swarm(hosts), TURNS)
    figures: list[Figure] = []
    for name, seconds in ours.items():
        mine, other = statistics.median(seconds), statistics.median(theirs[name])
        figure = {
            "figure": name,
            "peer": "docker-swarm",
            "unit": "s",
            "ours": round(mine, 2),
            "theirs": round(other, 2),
        }
        figures.append(figure | {"ratio": round(other / mine, 2)})
    return figures


async def fan_out(api: Api, fleet: Fleet) -> list[float]:
    """Seconds from asking for a change that concerns every node until each node has accepted it."""
    found: list[float] = []
    for number in range(CHANGES):
        before = {agent.member.node: agent.held.get(f"routes/{APP}") for agent in fleet.agents}
        begun = time.monotonic()
        await api.call("POST", f"/v1/apps/{APP}/purges", {"tag": f"t{number}"})
        changed = lambda b=before: all(a.held.get(f"routes/{APP}") != b[a.member.node] for a in fleet.agents)  # noqa: E731
        await fleet.until(changed, "all have accepted the change", DEADLINE_S)
        taken = [agent.accepted_at - begun for agent in fleet.agents]
        say(f"change {number}: p50 {statistics.median(taken):.2f} s, last {max(taken):.2f} s")
        found += taken
        await asyncio.sleep(PAUSE_S)
    return found


async def reconnect(fleet: Fleet) -> float:
    """Seconds until all are back after every connection is cut at once."""
    begun = time.monotonic()
    await fleet.cut()
    await fleet.until(lambda: fleet.connected == len(fleet.agents), "all are back", DEADLINE_S)
    taken = time.monotonic() - begun
    say(f"all are back after {taken:.1f} s")
    return taken


async def until(holds: Any, what: str, deadline_s: float) -> None:
    """Returns when it holds."""
    end = time.monotonic() + deadline_s
    while not await holds():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(0.1)


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    wanted = 2 * AGENTS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        print(f"bench: {wanted} open files are needed, the limit is {hard}: raise it with ulimit -n", file=sys.stderr)
        return 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="locci-bench-") as folder:
        figures = asyncio.run(large_fleet(Path(folder)))
    os.sched_setaffinity(0, every)
    figures += beside_swarm()
    report("control_plane", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
