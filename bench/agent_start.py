"""From the wish for a container to its first answer: the agent beside `docker run` and Docker Swarm, for one and ten.

All on engines of their own on this machine, with the same image, in turns. Ours is from the moment at which the
control plane is told what is wanted, over its stream, until the container answers over HTTP; `docker run` and
`docker service create` from the start of the command line. Each figure is the median of several turns.
Writes build/bench/agent_start.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.settings import AgentSettings
from bench._harness import install, report
from tests.integration.agent.rig import Rig, eventually, replica
from tests.integration.engine_fixture import EngineHost, wait_for

TURNS = {1: 7, 10: 5}
DEADLINE_S = 60.0
SANDBOXES: int = AgentSettings.model_fields["sandboxes"].default
SERVICE = "com.docker.swarm.service.name"

# Runs on the host under test: asks each address of its input line until it answers, then says when that was.
PROBER = """
import socket, sys, time
for line in sys.stdin:
    for address in line.split():
        while True:
            try:
                with socket.create_connection((address, 8080), timeout=1) as s:
                    s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                    if s.recv(16).startswith(b"HTTP/1."):
                        break
            except OSError:
                pass
            time.sleep(0.002)
    print(time.monotonic(), flush=True)
"""


class Prober:
    """Finds out when containers answer."""

    def __init__(self, host: EngineHost):
        argv = host.command(sys.executable, "-c", PROBER)
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answered(self, addresses: list[str]) -> float:
        """The moment on the monotonic clock at which all of them had answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(addresses) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait(5)


@contextlib.contextmanager
def engine(*, swarm: bool) -> Iterator[tuple[EngineHost, Prober, str]]:
    """A host with an engine, a prober on it, and the image, which is there already."""
    host = EngineHost(Path("/tmp") / f"locci-bs-{secrets.token_hex(3)}", live_restore=not swarm)
    with contextlib.ExitStack() as stack:
        stack.callback(host.down)
        host.up()
        image = host.push("bench")
        with contextlib.closing(host.client()) as client:
            client.pull(image)
        prober = Prober(host)
        stack.callback(prober.close)
        yield host, prober, image


async def ours(count: int, turns: int, host: EngineHost, prober: Prober, image: str, folder: Path) -> list[float]:
    """Seconds of each turn with the agent."""
    found: list[float] = []
    async with Rig(host, folder, sandboxes=SANDBOXES).serving(keep=True) as rig:
        rig.start()
        await eventually(lambda: rig.control_plane.sessions, "the agent connects", DEADLINE_S)
        for turn in range(1, turns + 1):
            await asyncio.to_thread(wait_for, lambda: _sandboxes(host) == SANDBOXES, "idle sandboxes", DEADLINE_S)
            wanted = [replica(image, ordinal=n, release=turn) for n in range(count)]
            begun = time.monotonic()
            revision = rig.control_plane.want(*wanted)
            names = [resource.name for resource in wanted]
            await eventually(lambda n=names: all(map(rig.control_plane.ready, n)), "all are ready", DEADLINE_S)  # type: ignore[misc]
            addresses = [rig.control_plane.replicas[name].address.split(":")[0] for name in names]
            found.append(await asyncio.to_thread(prober.answered, addresses) - begun)
            revision = rig.control_plane.want()
            await eventually(lambda r=revision: rig.control_plane.applied == r, "all are gone", DEADLINE_S)  # type: ignore[misc]
    return found


def _sandboxes(host: EngineHost) -> int:
    with contextlib.closing(host.client()) as client:
        return len(client.containers(filters={"label": "dev.locci.sandbox"}))


def docker_run(count: int, turns: int, host: EngineHost, prober: Prober, image: str) -> list[float]:
    """Seconds of each turn with as many `docker run -d` at once."""
    found: list[float] = []
    for _ in range(turns):
        with ThreadPoolExecutor(count) as threads:
            begun = time.monotonic()
            ids = list(threads.map(lambda _: _docker(host, "run", "-d", image), range(count)))
            found.append(prober.answered(_addresses(host, lambda listed, ids=ids: listed["Id"] in ids, count)) - begun)
        host.remove_containers()
    return found


def swarm(count: int, turns: int, host: EngineHost, prober: Prober, image: str) -> list[float]:
    """Seconds of each turn with a service of so many replicas."""
    found: list[float] = []
    for turn in range(turns):
        name = f"web-{count}-{turn}"
        begun = time.monotonic()
        create = ("service", "create", "--detach", "--no-resolve-image", "--replicas", str(count), "--name", name)
        _docker(host, *create, image)
        addresses = _addresses(host, lambda listed, n=name: listed["Labels"].get(SERVICE) == n, count)  # type: ignore[misc]
        found.append(prober.answered(addresses) - begun)
        _docker(host, "service", "rm", name)
        wait_for(lambda: not host.containers(), "the service is gone", DEADLINE_S)
    return found


def _docker(host: EngineHost, *words: str) -> str:
    argv = ["docker", "-H", host.socket, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _addresses(host: EngineHost, mine: Callable[..., bool], count: int) -> list[str]:
    """The addresses of the containers as soon as all of them run."""
    end = time.monotonic() + DEADLINE_S
    with contextlib.closing(host.client()) as client:
        while time.monotonic() < end:
            networks = [c["NetworkSettings"]["Networks"] for c in client.containers() if mine(c)]
            found = [n["IPAddress"] for attached in networks for n in attached.values() if n["IPAddress"]]
            if len(found) == count:
                return found
            time.sleep(0.005)
    raise RuntimeError(f"{count} containers do not run within {DEADLINE_S:g} s")


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    if (missing := install({"docker.io": bool(shutil.which("docker"))})) is not None:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print("bench: needs root, for engines in network namespaces", file=sys.stderr)
        return 3
    figures = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="locci-bench-")))
        plain = stack.enter_context(engine(swarm=False))
        other = stack.enter_context(engine(swarm=True))
        _docker(other[0], "swarm", "init", "--advertise-addr", other[0].inside)
        for count, turns in TURNS.items():
            inside = folder / str(count)
            inside.mkdir()
            mine = statistics.median(asyncio.run(ours(count, turns, *plain, inside)))
            peers = {"docker-run": docker_run(count, turns, *plain), "docker-swarm": swarm(count, turns, *other)}
            name = "create_to_serving" if count == 1 else f"create_to_serving_{count}"
            for peer, seconds in peers.items():
                theirs = statistics.median(seconds)
                figure = {"figure": name, "peer": peer, "unit": "s", "ours": round(mine, 3), "theirs": round(theirs, 3)}
                figures.append(figure | {"ratio": round(theirs / mine, 2)})
    report("agent_start", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
