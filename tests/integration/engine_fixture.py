"""A real Docker Engine with a registry, in a network namespace of their own, for tests of one host.

Use it in a test module with `from tests.integration.engine_fixture import EngineHost, engine_host`. Containers are
reached from inside the namespace only: run programs with `EngineHost.command`. This process is `EngineHost.outside`
for them, and nothing else is there.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import secrets
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import docker
import pytest
import requests

from lab import preflight
from lab.layout import Layout
from lab.machine import clean_environment, enter, ip_batch, run
from lab.processes import identify, kill, wait_gone
from lab.programs import Tools
from lab.teardown import take_down

REGISTRY = "127.0.0.1:5000"
REMOVALS_MAX = 4
REMOVAL_S = 15
READY_DEADLINE_S = 30.0
HOSTS_MAX = 4
"""Hosts of one process that may be there at the same time."""
_HOSTS = itertools.count()

WEB = (
    "trap 'exit 0' TERM; [ -z \"$DELAY\" ] || sleep $DELAY; "
    "httpd -p ${PORT:-8080} -h /www; while :; do sleep 1 & wait $!; done"
)
"""Serves /www, sleeps first when told to, and ends at once when asked."""


class EngineHost:
    """One host: dockerd, containerd, a registry with images to pull by digest, and a way in."""

    def __init__(self, root: Path, live_restore: bool = True):
        self.name = f"te{os.getpid() % 100_000}{secrets.token_hex(2)}"
        self.layout = Layout(root).check()
        self.namespace = f"locci-{self.name}-h"
        self.socket = f"unix://{self.layout.docker_socket('h')}"
        number = (os.getpid() * HOSTS_MAX + next(_HOSTS) % HOSTS_MAX) % 16_000
        self._network = f"10.213.{number // 64}.{number % 64 * 4}"
        self.outside = self._address(1)
        """This process, as seen from the host."""
        self.inside = self._address(2)
        """The host, as seen from this process."""
        self._tools: Tools | None = None
        self._live_restore = live_restore
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Starts everything."""
        self.layout.pids.mkdir(parents=True)
        self.layout.logs.mkdir()
        self.layout.host("h").mkdir(parents=True, exist_ok=True)
        self._tools = preflight.find_tools(self.layout.root)
        link = f"lt{self.name[2:]}"
        run(["ip", "netns", "add", self.namespace])
        run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace])
        run(["ip", "addr", "add", f"{self.outside}/30", "dev", link])
        run(["ip", "link", "set", link, "up"])
        ip_batch(self.namespace, ["link set lo up", f"addr add {self.inside}/30 dev eth0", "link set eth0 up"])
        self._write_configuration()
        self.start_registry()
        self._start("containerd", self._tools.containerd, "--config", str(self._file("containerd.toml")))
        self.start_engine()

    def down(self) -> None:
        """Removes every trace, also of what was left half done."""
        for process in self._running.values():
            process.kill()
            process.wait(10)
        take_down(self.name, self.layout)

    # ---- parts

    def command(self, *argv: str) -> list[str]:
        """`argv` on this host."""
        return enter(self.namespace, argv)

    def client(self) -> docker.APIClient:
        """A client of the engine; the caller closes it."""
        return docker.APIClient(base_url=self.socket, version="auto", timeout=60)

    def start_engine(self) -> None:
        """Starts dockerd, and returns when it answers."""
        assert self._tools is not None
        folder = self.layout.host("h") / "docker"
        self._start(
            "dockerd",
            self._tools.dockerd,
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "dockerd.pid"), "--host", self.socket),
            *("--containerd", str(self._file("containerd.sock")), "--config-file", str(self._file("dockerd.json"))),
            *("--bip", "172.29.0.1/24", "--cgroup-parent", f"locci-{self.name}-h"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--storage-driver", self._tools.storage_driver),
            *("--userland-proxy=false", "--log-level", "warn"),
            *(("--live-restore",) if self._live_restore else ()),
        )
        wait_for(self.answers, "dockerd answers", READY_DEADLINE_S)

    def kill_engine(self) -> None:
        """kill -9 of dockerd; containers live on."""
        self._kill("dockerd")

    @contextlib.contextmanager
    def frozen_engine(self) -> Iterator[None]:
        """SIGSTOP of dockerd for the length of the block: it is connected, and answers nothing."""
        process = self._running["dockerd"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def start_registry(self) -> None:
        """Starts the registry; it keeps what was pushed."""
        assert self._tools is not None
        self._start("registry", self._tools.registry, "serve", str(self._file("registry.yml")))

    def kill_registry(self) -> None:
        """kill -9 of the registry."""
        self._kill("registry")

    def push(self, tag: str, files: dict[str, str] | None = None, command: str = WEB) -> str:
        """Makes an image of busybox that runs `command`, pushes it, and forgets it here; its name by digest."""
        repository = f"{REGISTRY}/test"
        changes = [f"ENTRYPOINT {_json(['/bin/sh', '-c', command])}", f"LABEL tag={tag}"]
        with contextlib.closing(self.client()) as client:
            client.import_image_from_data(_image_tar(files or {}), repository=repository, tag=tag, changes=changes)
            digest = ""
            for message in client.push(repository, tag=tag, stream=True, decode=True):
                assert "error" not in message, message
                digest = message.get("aux", {}).get("Digest", digest)
            image = f"{repository}@{digest}"
            client.remove_image(f"{repository}:{tag}", force=True)
            return image

    def traffic_control(self, *words: str) -> None:
        """`tc qdisc` on this host."""
        run(self.command("tc", "qdisc", *words))

    def containers(self) -> dict[str, str]:
        """Ids of all containers with their state, except the networks that an agent makes ahead of time."""
        with contextlib.closing(self.client()) as client:
            listed = client.containers(all=True)
        return {found["Id"]: found["State"] for found in listed if "dev.locci.sandbox" not in found["Labels"]}

    def clear(self) -> None:
        """Removes all containers and images."""
        self.remove_containers()
        with contextlib.closing(self.client()) as client:
            for image in client.images(quiet=True):
                with contextlib.suppress(docker.errors.APIError):
                    client.remove_image(image, force=True)

    def remove_containers(self) -> None:
        """Removes all containers. An engine that hangs on one, as after a kill in mid-start, starts anew."""
        for _ in range(REMOVALS_MAX):
            left = self._remove_containers()
            if not left:
                return
            self.kill_engine()
            self.start_engine()
        raise AssertionError(f"the engine does not remove {', '.join(left)}")

    def _remove_containers(self) -> list[str]:
        """Those that could not be removed."""
        left: list[str] = []
        client = docker.APIClient(base_url=self.socket, version="auto", timeout=REMOVAL_S)
        with contextlib.closing(client):
            for found in client.containers(all=True):
                try:
                    client.remove_container(found["Id"], force=True, v=True)
                except docker.errors.NotFound:
                    continue
                except (docker.errors.APIError, requests.exceptions.RequestException):
                    left.append(found["Id"])
        return left

    # ---- inside

    def _address(self, number: int) -> str:
        head, _, last = self._network.rpartition(".")
        return f"{head}.{int(last) + number}"

    def _file(self, name: str) -> Path:
        return self.layout.host("h") / name

    def _write_configuration(self) -> None:
        state = self.layout.host("h") / "containerd"
        containerd = (
            f'version = 2\nroot = "{state / "root"}"\nstate = "{state / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._file("containerd.sock")}"\n'
            f'[ttrpc]\naddress = "{self._file("containerd.sock.ttrpc")}"\n'
        )
        registry = (
            "version: 0.1\nlog: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._file('registry')}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{REGISTRY}'}}\n"
        )
        self._file("containerd.toml").write_text(containerd)
        self._file("registry.yml").write_text(registry)
        self._file("dockerd.json").write_text("{}\n")

    def _start(self, name: str, *argv: str) -> None:
        with self.layout.log("h", name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                self.command(*argv), stdout=output, stderr=output, env=clean_environment(), start_new_session=True
            )

    def _kill(self, name: str) -> None:
        process = self._running.pop(name)
        identity = identify(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        if identity is not None:
            kill(identity)
            wait_gone([identity])

    def answers(self) -> bool:
        try:
            with contextlib.closing(self.client()) as client:
                return bool(client.ping())
        except docker.errors.DockerException:
            return False


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
    """Returns when `condition` holds; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.02)


def _image_tar(files: dict[str, str]) -> bytes:
    """A root file system: busybox with its applets, and `files` below /www."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "httpd", "sleep", "cat", "echo", "ls"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, text in {"www/index.html": "hello\n", **files}.items():
            entry = tarfile.TarInfo(name)
            content = text.encode()
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(words: Sequence[str]) -> str:
    return json.dumps(list(words))


@pytest.fixture(scope="session")
def engine_host() -> Iterator[EngineHost]:
    """The engine of this test session."""
    root = Path("/tmp") / f"locci-te-{secrets.token_hex(3)}"
    host = EngineHost(root)
    try:
        host.up()
        yield host
    finally:
        host.down()
