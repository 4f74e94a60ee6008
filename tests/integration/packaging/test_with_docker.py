"""`install.sh --with-docker` where neither Docker Engine nor Python is: both come from Debian, by its own apt."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.machine import run
from tests.integration.engine_fixture import EngineHost, wait_for
from tests.integration.packaging.booted_host import BootedHost, can_boot
from tests.integration.packaging.clean_root import DEADLINE_S, CleanHost, ControlPlane, elapsed_s, served
from tests.integration.packaging.test_packages import hand_over, hello

pytestmark = [
    pytest.mark.lab,
    pytest.mark.drill,
    pytest.mark.packaging,
    pytest.mark.skipif(not can_boot(), reason="without systemd's hierarchy of control groups"),
]


class _Forward(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = {key: self.headers[key] for key in ("Range", "If-Modified-Since") if key in self.headers}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.path, headers=wanted), timeout=60) as answer:
                self.send_response(answer.status)
                for key in ("Content-Length", "Last-Modified", "Content-Range", "Content-Type"):
                    if key in answer.headers:
                        self.send_header(key, answer.headers[key])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            self.send_response(error.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror(engine_host: EngineHost) -> Iterator[str]:
    """The host's only way to Debian's mirror: a proxy on this machine."""
    server = ThreadingHTTPServer((engine_host.outside, 0), _Forward)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{engine_host.outside}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def app(engine_host: EngineHost) -> dict[str, Any]:
    """An app whose image is in the registry, pushed while an engine was there for that."""
    return hello(engine_host)


@pytest.fixture
def bare(host: CleanHost) -> Iterator[BootedHost]:
    """A host that has booted, without Python, and in whose network no engine runs."""
    made = BootedHost(host)
    purge = "apt-get purge -y -qq '^python3.*' '^libpython3.*' >/dev/null"
    run(["/usr/sbin/chroot", str(host.root), "/bin/sh", "-c", purge])
    host.engine.kill_engine()
    _without_bridge(host.engine)
    made.boot()
    made.ok("rm", "/run/docker.sock")
    try:
        yield made
    finally:
        made.power_off()
        _without_bridge(host.engine)
        host.engine.start_engine()


def _without_bridge(engine: EngineHost) -> None:
    with contextlib.suppress(Exception):
        run(engine.command("ip", "link", "delete", "docker0"))


def test_engine_and_python_come_from_debian_and_the_host_serves(
    packages: Path, host: CleanHost, fleet: ControlPlane, mirror: str, app: dict[str, Any], bare: BootedHost
) -> None:
    assert bare.run("sh", "-c", "command -v dockerd || command -v python3").returncode != 0
    (host.root / "etc/apt/apt.conf.d/proxy").write_text(f'Acquire::http::Proxy "{mirror}";\n')
    bundle = hand_over(host, next(packages.glob("*-bundle.tar")))
    (host.root / "root/locci.tar").write_bytes((host.root / bundle.lstrip("/")).read_bytes())
    fleet.apply(app)
    env = {"LOCCI_SERVER": fleet.url, "LOCCI_TOKEN": fleet.token(), "LOCCI_NAME": "eu-1", "LOCCI_WITH_DOCKER": "1"}

    began = time.monotonic()
    bare.ok("sh", "-c", "mkdir /root/locci && tar -xf /root/locci.tar -C /root/locci")
    said = bare.run("sh", "/root/locci/install.sh", env=env)
    assert said.returncode == 0, said.stderr + bare.run("journalctl", "-u", "docker", "--no-pager").stdout
    assert "installing Docker Engine from the distribution" in said.stderr
    wait_for(served(f"http://{host.engine.inside}/", "hello.example.net"), "it serves", DEADLINE_S)
    print(f"with apt, Docker Engine and Python: serving after {elapsed_s(began):.1f} s")
    assert "docker.io" in bare.ok("dpkg-query", "--show", "docker.io")
    for unit in ("docker", "locci-agent", "locci-edge"):
        assert bare.ok("systemctl", "is-active", unit).strip() == "active"
        assert bare.ok("systemctl", "is-enabled", unit).strip() == "enabled"
    assert bare.run("locci-agent", "doctor").returncode == 0, bare.run("locci-agent", "doctor").stdout

    # Again it finds everything in place.
    again = bare.run("sh", "/root/locci/install.sh", env=env)
    assert (again.returncode, "installing Docker Engine" in again.stderr) == (0, False), again.stderr
