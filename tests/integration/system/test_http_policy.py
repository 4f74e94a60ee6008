"""What a manifest asks of edges, from `locci apply` to a client: redirects, fields, pages, maintenance, a reload."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.demo_report import failures
from lab.example import example_folder
from lab.inside import socket_inside
from lab.machine import clean_environment
from lab.observers import ClientLoop
from lab.preflight import own_program
from lab.story import APP, HOSTNAME
from tests.integration.system.conftest import Deployed

pytestmark = pytest.mark.lab

RULES = """
http:
  response_headers:
    set: [{name: X-Frame-Options, value: DENY}]
  redirects:
    - {prefix: /old, location: "/new{rest}", status: 301}
  maintenance: {html: "<p>rebuilding {status}</p>", retry_after: 90s}
"""


def locci(deployed: Deployed, *arguments: str) -> str:
    environment = clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})
    command = [own_program("locci"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(deployed: Deployed, node: str, target: str) -> http.client.HTTPResponse:
    """One request from a client's place to a node's edge; the body has been read."""
    topology = deployed.fleet.topology
    connection = http.client.HTTPConnection(HOSTNAME, timeout=10)
    connection.sock = socket_inside(topology.namespace(deployed.host("client-eu")), socket.AF_INET, socket.SOCK_STREAM)
    connection.sock.settimeout(10)
    connection.sock.connect((deployed.host(node).ipv4, 80))
    connection.request("GET", target, headers={"Host": HOSTNAME, "Accept": "text/html"})
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def wait_for(deployed: Deployed, target: str, status: int) -> None:
    """Until every edge answers so."""
    deadline = time.monotonic() + 20
    for node in deployed.fleet.topology.nodes:
        while (found := ask(deployed, node.name, target).status) != status:
            assert time.monotonic() < deadline, f"{node.name} still answers {found}"
            time.sleep(0.05)


@pytest.fixture
def restored(deployed: Deployed) -> Iterator[Deployed]:
    """The fleet with the example as it is, before and afterwards."""
    as_it_is = ("deploy", "-f", str(example_folder() / "app.yaml"))
    locci(deployed, *as_it_is)
    deployed.wait_healthy()
    yield deployed
    locci(deployed, "apps", "maintenance", APP, "off")
    locci(deployed, *as_it_is)
    deployed.wait_healthy()


def test_rules_reach_every_edge_and_restart_nothing(restored: Deployed, tmp_path: Path) -> None:
    containers = restored.containers()
    manifest = tmp_path / "app.yaml"
    manifest.write_text((example_folder() / "app.yaml").read_text() + RULES)
    locci(restored, "deploy", "-f", str(manifest))
    wait_for(restored, "/old/a", 301)
    moved = ask(restored, "us-1", "/old/a?b=1")
    assert moved.headers["Location"] == "/new/a?b=1"
    assert ask(restored, "us-1", "/").headers["X-Frame-Options"] == "DENY"
    began = time.monotonic()
    locci(restored, "apps", "maintenance", APP, "on")
    wait_for(restored, "/", 503)
    assert time.monotonic() - began < 15
    page = ask(restored, "eu-1", "/")
    assert (page.body, page.headers["Retry-After"]) == (b"<p>rebuilding 503</p>", "90")  # type: ignore[attr-defined]
    assert "maintenance  yes" in locci(restored, "apps", "show", APP)
    locci(restored, "apps", "maintenance", APP, "off")
    wait_for(restored, "/", 200)
    assert restored.containers() == containers


def test_edges_are_reloaded_and_no_request_is_lost(restored: Deployed) -> None:
    clients = restored.fleet.topology.clients
    with ExitStack() as stack:
        loops = [stack.enter_context(ClientLoop(restored.fleet.topology, c, HOSTNAME, rate=20)) for c in clients]
        for loop in loops:
            assert loop.wait(lambda samples: len(samples) >= 5 and samples[-1].ok, timeout_s=10)
        for node in restored.fleet.topology.nodes:
            os.kill(restored.fleet.control.programs()[node.name, "edge"]["pid"], signal.SIGHUP)
        for loop in loops:
            count = len(loop.samples())
            assert loop.wait(lambda samples, count=count: len(samples) >= count + 150, timeout_s=30)  # type: ignore[misc]
            loop.stop()
        samples = [sample for loop in loops for sample in loop.samples()]
    assert not [sample for sample in samples if not sample.ok], failures(samples)
