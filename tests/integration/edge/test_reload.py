"""Settings and the program itself are exchanged under load, and no request fails by it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import agent
from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin, Seen
from tests.fakes.ports import free_port
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.test_client_tls import material
from tests.integration.edge.test_tickets import answered, trusting

PACKAGE = Path(agent.__file__).parent
CLIENTS = 6


class Installed:
    """The program as it is installed: versions side by side, and a link to one of them."""

    def __init__(self, path: Path, workers: int):
        self.path = path
        self.workers = workers
        self.port, self.second_port = free_port(), free_port()
        self.agent = FakeAgent(path)
        self.process: asyncio.subprocess.Process
        self.settings: dict[str, object] = {
            "http_listen": [f"127.0.0.1:{self.port}"],
            "https_listen": [],
            "peer_listen": "",
            "admin_listen": "",
            "run_dir": str(path),
            "state_dir": str(path / "state"),
            "workers": workers,
        }

    def install(self, version: str, wrong: str = "") -> None:
        """The present code under another version number, with a line at the end of its worker's module."""
        folder = self.path / version
        (folder / "bin").mkdir(parents=True)
        shutil.copytree(PACKAGE, folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
        link = folder / "agent" / "edge" / "config_link.py"
        link.write_text(link.read_text().replace('VERSION: Final = "0.1.0"', f'VERSION: Final = "{version}"'))
        worker = folder / "agent" / "edge" / "app.py"
        worker.write_text(f"{worker.read_text()}\n{wrong}\n")
        entry = folder / "bin" / "locci-edge"
        lines = f"import sys\nsys.path.insert(0, {str(folder)!r})\nfrom agent.edge.main import main\nmain()\n"
        entry.write_text(f"#!{sys.executable}\n{lines}")
        entry.chmod(0o755)
        new = self.path / ".current.new"
        new.symlink_to(version)
        new.rename(self.path / "current")

    def write(self, **settings: object) -> None:
        self.settings |= settings
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in self.settings.items())
        (self.path / "edge.toml").write_text("".join(lines))

    async def start(self) -> None:
        self.write()
        await self.agent.start()
        command = [str(self.path / "current" / "bin" / "locci-edge"), "run", "--config", str(self.path / "edge.toml")]
        self.log = (self.path / "log").open("wb")
        self.process = await asyncio.create_subprocess_exec(*command, stderr=self.log, stdout=self.log)
        await until(lambda: len(self.agent.acks) == self.workers, 60)

    def said(self) -> str:
        return (self.path / "log").read_text()

    async def reload(self, what: str) -> None:
        """Returns when the log says so."""
        before = self.said().count(what)
        self.process.send_signal(signal.SIGHUP)
        await until(lambda: self.said().count(what) > before, 60)

    @property
    def versions(self) -> list[str]:
        return [hello.program_version for hello in self.agent.hellos]

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            async with asyncio.timeout(60):
                await self.process.wait()
        self.log.close()
        await self.agent.stop()


@pytest.fixture
async def installed(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin) -> AsyncIterator[Installed]:
    """With one worker, or as many as the test says."""
    made = Installed(tmp_path, getattr(request, "param", 1))
    made.agent.config = config(1, [route("hello", ["hello.test"], [origin.address])])
    made.install("1.0.0")
    await made.start()
    yield made
    await made.stop()


class Load:
    """Clients that ask all the time: some with a connection for each request, some with one that they keep."""

    def __init__(self, port: int):
        self.port = port
        self.answered = 0
        self.failed: list[str] = []
        self.over = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._anew() if number % 2 else self._kept())

    async def _anew(self) -> None:
        while not self.over:
            try:
                self._note((await fetch(self.port, "/a", Connection="close")).status)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))

    async def _kept(self) -> None:
        client: Client | None = None
        while not self.over:
            try:
                client = client or await Client.open(self.port)
                response = await client.get("/b")
                self._note(response.status)
                if response.headers.get("connection") == "close":
                    client.writer.close()
                    client = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))
                client = None
            await asyncio.sleep(0.01)
        if client is not None:
            client.writer.close()

    def _note(self, status: int) -> None:
        self.answered += 1
        if status != 200:
            self.failed.append(str(status))


async def answers(port: int, status: int) -> None:
    """Returns when a request for a long path is answered so by all workers, with 0 not at all."""
    alike = 0
    async with asyncio.timeout(30):
        while alike < 8:
            try:
                found = (await fetch(port, "/" + "a" * 300)).status
            except (OSError, asyncio.IncompleteReadError):
                found = 0
            alike = alike + 1 if found == status else 0


async def test_a_new_version_takes_over_and_no_request_fails(installed: Installed, origin: Origin) -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen) -> None:
        if "upgrade" in seen.headers:
            await seen.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while data := await seen.reader.read(1024):
                await seen.send(data)
            return
        if seen.target == "/slow":
            await go_on.wait()
        await seen.answer(200, b"hello\n")

    origin.handler = answer
    supervisor = installed.process.pid
    load = Load(installed.port)
    loading = asyncio.create_task(load.run())
    socket = await Client.open(installed.port)
    await socket.send(b"GET /ws HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await socket.read()).status == 101
    slow = await Client.open(installed.port)
    await slow.send(b"GET /slow HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await until(lambda: any(seen.target == "/slow" for seen in origin.seen))
    for version in ("2.0.0", "3.0.0"):
        installed.install(version)
        await installed.reload("reloaded")
        await until(lambda version=version: version in installed.versions, 60)  # type: ignore[misc]
        answered = load.answered
        await until(lambda answered=answered: load.answered > answered + 100)  # type: ignore[misc]
        if version == "2.0.0":
            await socket.send(b"still here")
            assert await socket.reader.readexactly(10) == b"still here"
            go_on.set()
            assert (await slow.read()).status == 200
            slow.writer.close()
            socket.writer.close()
    load.over = True
    await loading
    assert load.failed == []
    assert installed.versions == ["1.0.0", "2.0.0", "3.0.0"]
    assert installed.process.pid == supervisor
    assert installed.process.returncode is None
    # It is empty for a moment while a process becomes another program.
    await until(lambda: Path(f"/proc/{supervisor}/cmdline").read_bytes() != b"")
    assert str(installed.path / "current") in Path(f"/proc/{supervisor}/cmdline").read_text()


async def test_a_version_that_does_not_start_changes_nothing(installed: Installed) -> None:
    load = Load(installed.port)
    loading = asyncio.create_task(load.run())
    installed.install("2.0.0", "raise SystemExit('broken')")
    await installed.reload("not reloaded")
    installed.write(max_headers=1)
    await installed.reload("not reloaded")
    answered = load.answered
    await until(lambda: load.answered > answered + 50)
    load.over = True
    await loading
    assert load.failed == []
    assert installed.versions == ["1.0.0"]


async def test_settings_are_read_anew_listeners_and_number_of_workers_too(installed: Installed) -> None:
    both = [f"127.0.0.1:{installed.port}", f"127.0.0.1:{installed.second_port}"]
    installed.write(http_listen=both, workers=2, max_url_bytes=256)
    await installed.reload("reloaded")
    for port in (installed.port, installed.second_port):
        await answers(port, 414)
        assert (await fetch(port, "/a")).status == 200
    installed.write(http_listen=both[1:], workers=1, max_url_bytes=1000)
    await installed.reload("reloaded")
    await answers(installed.second_port, 200)
    await answers(installed.port, 0)


async def test_a_worker_that_dies_is_missed_by_nobody_for_long(installed: Installed) -> None:
    os.kill(installed.agent.hellos[0].pid, signal.SIGKILL)
    await until(lambda: len(installed.agent.hellos) == 2, 60)
    for _ in range(20):
        assert (await fetch(installed.port, "/a")).status == 200


async def test_workers_end_with_their_supervisor(installed: Installed) -> None:
    installed.process.kill()
    await installed.process.wait()
    for hello in installed.agent.hellos:
        await until(lambda pid=hello.pid: not Path(f"/proc/{pid}").exists(), 30)  # type: ignore[misc]


@pytest.mark.parametrize("installed", [2], indirect=True)
async def test_tls_sessions_are_resumed_by_any_worker_and_by_the_next_version(installed: Installed) -> None:
    secure_port = free_port()
    assert installed.agent.config is not None
    installed.agent.config.certificates.append(material("hello", "hello.test"))
    installed.write(https_listen=[f"127.0.0.1:{secure_port}"])
    await installed.reload("reloaded")
    await until(lambda: len(installed.agent.acks) == 4, 60)
    context = trusting(ssl.TLSVersion.TLSv1_3)

    async def resumed(session: ssl.SSLSession, workers: int) -> None:
        """By so many processes: each writes its own beginning of ids."""
        found: set[str] = set()
        async with asyncio.timeout(30):
            while len(found) < workers:
                again, answer, _ = await asyncio.to_thread(answered, context, secure_port, session)
                assert again
                found.add(answer.partition("X-Request-Id: ")[2][:16])

    _, _, session = await asyncio.to_thread(answered, context, secure_port, None)
    assert session is not None
    await resumed(session, 2)
    installed.install("2.0.0")
    await installed.reload("reloaded")
    await until(lambda: installed.versions.count("2.0.0") == 2, 60)
    await resumed(session, 2)


@pytest.mark.parametrize("installed", [2], indirect=True)
async def test_settings_that_became_wrong_end_no_worker_that_serves(installed: Installed) -> None:
    installed.write(max_headers=1)
    os.kill(installed.agent.hellos[0].pid, signal.SIGKILL)
    await until(lambda: installed.said().count("started again") >= 3, 60)
    answered = 0
    async with asyncio.timeout(30):
        while answered < 20:  # what waits in the dead one's queue goes over when that is let go
            try:
                async with asyncio.timeout(1):
                    answered += (await fetch(installed.port, "/a")).status == 200
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
    installed.write(max_headers=100)
    await until(lambda: len(installed.agent.hellos) == 3, 60)
