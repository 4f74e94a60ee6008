"""A real `locci-server` process, and the real command line as a process."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.ports import free_port
from tests.integration.http.wire import careless

START_S = 20.0


@dataclass
class CommandLine:
    """`locci` with a context file, in an environment of its own."""

    home: Path
    context: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "cli.main", *arguments]

    def env(self) -> dict[str, str]:
        """The environment that it is run in."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        own = {"HOME": str(self.home), "LOCCI_CONTEXT": str(self.context), "PYTHONUNBUFFERED": "1"}
        return {**kept, **own, **self.environment}

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        command = self.command(*arguments)
        return subprocess.run(
            command, env=self.env(), input=stdin, capture_output=True, text=True, timeout=40, check=False
        )


@dataclass
class RealServer:
    """A running control plane."""

    port: int
    data: Path
    process: subprocess.Popen[bytes]

    @property
    def context(self) -> Path:
        return self.data / "context.json"

    @property
    def token(self) -> str:
        return str(json.loads(self.context.read_text())["token"])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def post(self, path: str, body: dict[str, object]) -> None:
        """A call of the API that succeeds."""
        tls = ssl.create_default_context(cadata=json.loads(self.context.read_text())["ca_pem"])
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, context=tls, timeout=10) as response:
            assert response.status == 200


def answers(url: str, tls: ssl.SSLContext) -> bool:
    """Whether the control plane is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", context=tls, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("locci-server")
    port = free_port()
    config = folder / "server.toml"
    config.write_text(
        f'data_dir = "{folder}/data"\nhttp_listen = "127.0.0.1:{port}"\ngrpc_listen = "127.0.0.1:{free_port()}"\n'
        f'node_listen = "127.0.0.1:{free_port()}"\nadvertise = ["127.0.0.1"]\n'
    )
    command = [sys.executable, "-m", "control_plane.main", "run", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not answers(f"https://127.0.0.1:{port}", careless()):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield RealServer(port, folder / "data", process)
            assert "Traceback" not in (folder / "log").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0


@pytest.fixture
def locci(server: RealServer, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, server.context)
