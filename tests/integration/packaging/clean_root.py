"""A clean Debian, made once by debootstrap, with a real engine and a real control plane beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fleet.errors import LocciError
from lab.api import ApiClient
from lab.machine import clean_environment
from lab.preflight import own_program
from tests.integration.engine_fixture import EngineHost, wait_for

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build" / "cache" / "bookworm.tar"
DEADLINE_S = 90.0


def debian(target: Path) -> None:
    """A minimal Debian with Python, as a host of a provider comes; from the mirror the first time."""
    if not CACHE.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        fresh = CACHE.parent / f"bookworm-{os.getpid()}"
        command = ("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm", str(fresh))
        subprocess.run(command, check=True, timeout=600, capture_output=True, env=clean_environment())
        partial = CACHE.with_suffix(f".{os.getpid()}")
        subprocess.run(("tar", "-cf", str(partial), "--exclude=./var/cache/apt/*", "-C", str(fresh), "."), check=True)
        partial.rename(CACHE)
        shutil.rmtree(fresh)
    target.mkdir(parents=True)
    subprocess.run(("tar", "-xpf", str(CACHE), "-C", str(target)), check=True, timeout=120)


class CleanHost:
    """A clean root file system in the network of an engine; what runs in it is a program of that host."""

    def __init__(self, root: Path, engine: EngineHost):
        self.root = root
        self.engine = engine
        self._running: list[subprocess.Popen[bytes]] = []
        debian(root)
        (root / "lab").mkdir()
        self._mount = f"mount --bind {engine.layout.root} {root}/lab && mount -t proc proc {root}/proc && "
        (root / "run/docker.sock").symlink_to(
            f"/lab/{engine.layout.docker_socket('h').relative_to(engine.layout.root)}"
        )

    def command(self, *argv: str) -> list[str]:
        """`argv` in the clean root, in the host's network; mounts vanish with the process."""
        script = f'{self._mount} exec chroot {self.root} "$@"'
        return self.engine.command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv)

    def bring(self, *packages: str) -> None:
        """Installs packages of the distribution, from the mirror: over this machine's network."""
        script = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(packages)}"
        command = ("/usr/sbin/chroot", str(self.root), "/bin/sh", "-c", script)
        environment = clean_environment({"DEBIAN_FRONTEND": "noninteractive"})
        subprocess.run(command, check=True, timeout=300, capture_output=True, env=environment)

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command there, to its end."""
        return subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=120, check=False, env=clean_environment(env)
        )

    def ok(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """The same; it must end well."""
        done = self.run(*argv, env=env)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *argv: str) -> None:
        """A program there, until the end of the test."""
        (self.root / "run/locci").mkdir(exist_ok=True)
        with (self.root.parent / "programs.log").open("ab") as log:
            self._running.append(subprocess.Popen(self.command(*argv), stdout=log, stderr=log, env=clean_environment()))

    def start_unit(self, name: str) -> None:
        """What a unit of the release starts, with the capabilities that it grants and no way to others."""
        text = (self.root / f"opt/locci/current/share/systemd/{name}.service").read_text()
        settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        granted = [word.removeprefix("CAP_").lower() for word in settings["CapabilityBoundingSet"].split()]
        bounds = ",".join(["-all", *(f"+{word}" for word in granted)])
        words = settings["ExecStart"].split()
        self.start("/usr/bin/setpriv", f"--bounding-set={bounds}", "--no-new-privs", *words)

    def close(self) -> None:
        """Ends what was started."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class ControlPlane:
    """A real `locci-server` in the host's network."""

    def __init__(self, folder: Path, engine: EngineHost):
        self.url = f"https://{engine.inside}:7443"
        config = folder / "server.toml"
        config.write_text(
            f'data_dir = "{folder / "server"}"\nadvertise = ["{engine.inside}"]\n'
            'insecure_registries = ["127.0.0.1:5000"]\n'
        )
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                engine.command(own_program("locci-server"), "run", "--config", str(config)),
                stdout=log, stderr=log, env=clean_environment(),
            )  # fmt: skip
        context = folder / "server" / "context.json"
        wait_for(lambda: context.exists() and bool(context.read_text()), "the control plane starts", DEADLINE_S)
        self.api = ApiClient(
            self.url, json.loads(context.read_text())["ca_pem"], json.loads(context.read_text())["token"]
        )
        wait_for(lambda: _answered(lambda: self.api.call("GET", "/v1/nodes")), "the control plane answers", DEADLINE_S)
        self.api.call("POST", "/v1/regions", {"latitude": 50.0}, query={"region_id": "eu"})

    def token(self) -> str:
        """A join token."""
        return str(self.api.call("POST", "/v1/joinTokens", {"region": "regions/eu"})["token"])

    def ready(self, node: str) -> bool:
        """Whether the control plane takes the node for ready."""
        with contextlib.suppress(LocciError):
            return bool(self.api.call("GET", f"/v1/nodes/{node}").get("condition") == "NODE_CONDITION_READY")
        return False

    def apply(self, manifest: dict[str, Any]) -> None:
        """Applies an app."""
        self.api.call("POST", "/v1/apps:apply", {"manifest": manifest})

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)


@contextlib.contextmanager
def control_plane(folder: Path, engine: EngineHost) -> Iterator[ControlPlane]:
    """A control plane for the length of the block."""
    running = ControlPlane(folder, engine)
    try:
        yield running
    finally:
        running.close()


def served(url: str, host: str) -> Callable[[], bool]:
    """Whether an edge answers well for a host name."""

    def ask() -> bool:
        request = urllib.request.Request(url, headers={"Host": host})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
        return False

    return ask


def _answered(call: Callable[[], object]) -> bool:
    try:
        call()
    except LocciError:
        return False
    return True


def elapsed_s(since: float) -> float:
    """Seconds since a reading of the monotonic clock."""
    return time.monotonic() - since
