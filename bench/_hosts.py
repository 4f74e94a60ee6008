"""Ten replicas on three lab hosts, ours and Docker Swarm's: what the engines of the hosts say, asked in one way."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import docker
from docker.errors import DockerException
from docker.types import ContainerSpec, Healthcheck, Resources, ServiceMode, TaskTemplate, UpdateConfig

from bench._harness import say
from lab import bringup, links
from lab.example import push_example
from lab.layout import Layout
from lab.machine import clean_environment
from lab.programs import registry_address
from lab.progress import Progress
from lab.record import load_record
from lab.story import Story
from lab.topology import Host, Topology

REPLICAS: Final = 10
AT_ONCE: Final = 2
"""So many replicas of ten are changed at once, old ones only after new ones."""
DEADLINE_S: Final = 120.0
APP: Final = "ten"
_WHOLE: Final = (REPLICAS, REPLICAS)
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Hosts:
    """A lab, and a client of each node's engine."""

    topology: Topology
    layout: Layout
    engines: dict[str, docker.APIClient]

    def image(self, version: int) -> str:
        """The example in the lab's registry."""
        return f"{registry_address(self.topology)}/hello:{version}"

    def running(self, label: str, without: str = "") -> list[dict[str, Any]]:
        """The running containers with a label on all nodes but one."""
        found: list[dict[str, Any]] = []
        for node, engine in self.engines.items():
            if node != without:
                with contextlib.suppress(DockerException, OSError):
                    found += [dict(one, Node=node) for one in engine.containers(filters={"label": label})]
        return found

    def until(self, holds: Callable[[], bool], what: str) -> float:
        """The moment at which it holds, on the monotonic clock."""
        end = time.monotonic() + DEADLINE_S
        while not holds():
            if time.monotonic() > end:
                raise RuntimeError(f"not within {DEADLINE_S:g} s: {what}")
            time.sleep(_POLL_S)
        return time.monotonic()

    def cut(self, node: str) -> None:
        """Nothing reaches the host or leaves it any more."""
        links.partition(self.topology.lab, self.layout, node)

    def heal(self) -> None:
        """All links are whole again."""
        links.heal(self.topology.lab, self.layout)


@contextlib.contextmanager
def lab(name: str, *, swarm: bool) -> Iterator[Hosts]:
    """Three hosts in three regions, with the example's images; with `swarm` only their engines run."""
    # An end on request takes the lab down as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = bringup.UpOptions(name=name, bare=swarm, live_restore=not swarm)
    layout = bringup.up(options, Progress())
    with contextlib.ExitStack() as stack:
        stack.callback(bringup.down, name, layout)
        topology = load_record(layout, name).topology
        engines = {
            node.name: docker.APIClient(f"unix://{layout.docker_socket(node.name)}", version="auto", timeout=30)
            for node in topology.nodes
        }
        for engine in engines.values():
            stack.callback(engine.close)
        push_example(topology, layout, (1, 2))
        hosts = Hosts(topology, layout, engines)
        for engine in engines.values():
            for version in (1, 2):
                engine.pull(hosts.image(version))
        yield hosts


class Ours:
    """The app under our control plane."""

    label = f"dev.locci.app={APP}"

    def __init__(self, hosts: Hosts):
        self._hosts = hosts
        self._story = Story(hosts.topology, hosts.layout)
        self._images = {version: hosts.image(version) for version in (1, 2)}

    def apply(self, version: int) -> None:
        """Asks for ten of a version."""
        manifest = f"""
name: {APP}
image: {self._images[version]}
ports: [{{container_port: 8080}}]
readiness: {{http: {{path: /healthz}}, interval: 0.5s}}
placement: {{replicas: {REPLICAS}, lost_after: 3s}}
rollout: {{healthy_for: 0s, max_surge: {AT_ONCE}, max_unavailable: 0, drain: 0s}}
stop_timeout: 1s
resources: {{memory_bytes: 67108864}}
"""
        path = self._hosts.layout.root / f"{APP}-{version}.yaml"
        path.write_text(manifest)
        self._story.locci("apply", "-f", str(path))

    def count(self, version: int, without: str = "") -> tuple[int, int]:
        """Healthy replicas of the version, and running containers of any, on all nodes but one."""
        pages = self._story.api.pages(f"/v1/apps/{APP}/replicas", "replicas")
        release = f"-{version}"
        healthy = sum(
            1
            for replica in pages
            if replica.get("healthy")
            and not replica.get("stopping")
            and replica["node"] != f"nodes/{without}"
            and replica["name"].partition("@")[0].endswith(release)
        )
        return healthy, len(self._hosts.running(self.label, without))

    def remove(self) -> None:
        """Nothing of it is left."""
        self._story.locci("apps", "rm", APP)


class Swarm:
    """The same as a service of a Docker Swarm whose three hosts are managers."""

    label = f"com.docker.swarm.service.name={APP}"

    def __init__(self, hosts: Hosts):
        self._hosts = hosts
        first, *others = hosts.topology.nodes
        self._first = first
        self.docker(first, "swarm", "init", "--advertise-addr", first.ipv4)
        token = self.docker(first, "swarm", "join-token", "-q", "manager")
        for other in others:
            self.docker(other, "swarm", "join", "--token", token, "--advertise-addr", other.ipv4, f"{first.ipv4}:2377")

    def docker(self, host: Host, *words: str) -> str:
        """What the command line says on a host."""
        argv = ["docker", "-H", f"unix://{self._hosts.layout.docker_socket(host.name)}", *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=clean_environment()
        )
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def apply(self, version: int) -> None:
        """Asks for ten of a version."""
        engine = self._hosts.engines[self._first.name]
        # Checked as often as ours; not by the command line, which needs a shell in the image.
        check = ["CMD", "/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]
        spec = ContainerSpec(
            self._hosts.image(version),
            healthcheck=Healthcheck(test=check, interval=500_000_000),
            stop_grace_period=1_000_000_000,
        )
        template = TaskTemplate(spec, resources=Resources(mem_limit=64 << 20))
        mode, update = ServiceMode("replicated", REPLICAS), UpdateConfig(AT_ONCE, order="start-first", monitor=0)
        if version == 1:
            engine.create_service(template, name=APP, mode=mode, update_config=update)
        else:
            known = engine.inspect_service(APP)["Version"]["Index"]
            engine.update_service(APP, known, template, name=APP, mode=mode, update_config=update)

    def count(self, version: int, without: str = "") -> tuple[int, int]:
        """Healthy containers of the version, and running ones of any, on all nodes but one."""
        running = self._hosts.running(self.label, without)
        image = self._hosts.image(version)
        healthy = [one for one in running if one["Image"].startswith(image) and "(healthy)" in one["Status"]]
        return len(healthy), len(running)

    def remove(self) -> None:
        """Nothing of it is left."""
        self.docker(self._first, "service", "rm", APP)


def measure(hosts: Hosts, system: Ours | Swarm, turns: int) -> dict[str, list[float]]:
    """Seconds of each turn: until ten are healthy, until ten of the next version are and no other runs, and from the
    cut of a host until ten are healthy on the two others."""
    found: dict[str, list[float]] = {"create_10": [], "rolling_update_10": [], "partition_rescheduled": []}
    victim = hosts.topology.nodes[-1].name
    for _ in range(turns):
        begun = time.monotonic()
        system.apply(1)
        found["create_10"].append(hosts.until(lambda: system.count(1)[0] == REPLICAS, "ten are healthy") - begun)
        begun = time.monotonic()
        system.apply(2)
        found["rolling_update_10"].append(hosts.until(lambda: system.count(2) == _WHOLE, "ten are updated") - begun)
        begun = time.monotonic()
        hosts.cut(victim)
        moved = hosts.until(lambda: system.count(2, victim)[0] == REPLICAS, "ten are healthy elsewhere")
        found["partition_rescheduled"].append(moved - begun)
        hosts.heal()
        say(", ".join(f"{name} {seconds[-1]:.2f} s" for name, seconds in found.items()))
        system.remove()
        hosts.until(lambda: not hosts.running(system.label), "nothing runs any more")
    return found
