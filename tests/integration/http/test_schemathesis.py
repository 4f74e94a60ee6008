"""Schemathesis reads /openapi.json of a real `locci-server` and tries to catch it out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ports import free_port
from tests.integration.http.conftest import START_S, CommandLine, RealServer, answers
from tests.integration.http.wire import careless

FUZZ_S = 30
# A schema cannot say everything that the server checks: that a region exists, what an image reference looks like.
# Everything else is checked: statuses, media types, headers, schemas of answers, rejection of what is wrong,
# authentication, methods, and that nothing is ever 5xx.
NOT_CHECKED = "positive_data_acceptance"


@pytest.fixture
def unlimited(tmp_path: Path) -> Iterator[RealServer]:
    """A server that takes any rate, with something in it."""
    port = free_port()
    config = tmp_path / "server.toml"
    config.write_text(
        f'data_dir = "{tmp_path}/data"\nhttp_listen = "127.0.0.1:{port}"\ngrpc_listen = "127.0.0.1:{free_port()}"\n'
        f'node_listen = "127.0.0.1:{free_port()}"\nadvertise = ["127.0.0.1"]\nrate_per_s = 0\nlog_level = "warning"\n'
    )
    command = [sys.executable, "-m", "control_plane.main", "run", "--config", str(config)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not answers(f"https://127.0.0.1:{port}", careless()):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            yield RealServer(port, tmp_path / "data", process)
            assert "Traceback" not in (tmp_path / "log").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0


def fill(server: RealServer, home: Path) -> None:
    """Regions, a zone, a join token."""
    locci = CommandLine(home, server.context)
    for command in (
        ("regions", "create", "eu", "--lat=50.1", "--lon=8.7"),
        ("regions", "create", "us", "--lat=40.7", "--lon=-74"),
        ("zones", "create", "example.net"),
        ("tokens", "create", "--region", "eu"),
    ):
        done = locci(*command)
        assert done.returncode == 0, done.stderr


def test_the_running_server_keeps_the_promises_of_its_document(unlimited: RealServer, tmp_path: Path) -> None:
    fill(unlimited, tmp_path)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"{unlimited.url}/openapi.json", "--tls-verify=false", "--no-color", "--warnings=off"),
        *("-H", f"Authorization: Bearer {unlimited.token}", "--phases=examples,coverage,fuzzing"),
        *("--max-examples=5", f"--max-time={FUZZ_S}", "--continue-on-failure", "--generation-deterministic"),
        *("--exclude-checks", NOT_CHECKED, "--exclude-path-regex", ":watch$"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=FUZZ_S + 60, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    with urllib.request.urlopen(f"{unlimited.url}/openapi.json", context=careless(), timeout=5) as response:
        assert json.load(response)["openapi"] == "3.1.0"
