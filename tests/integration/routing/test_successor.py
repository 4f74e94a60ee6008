"""A new version of the program takes the running one's place: the same process, other code, and no question lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.fakes.ports import free_port
from tests.integration.routing.rig import REPOSITORY, Rig
from tests.integration.routing.rig import eventually as eventually_within
from tests.integration.routing.test_protocol import declared

SCRIPT = """#!{python}
import sys
with open("{log}", "a") as log:
    print("{version}", [word for word in sys.argv[1:] if word.startswith("--")], file=log)
sys.path.insert(0, "{repository}")
from routing.main import main
main()
"""
BROKEN = "#!/bin/sh\nexit 1\n"
CLIENTS, ANSWER_S = 24, 5.0
START_S = 120.0
"""Several starts of Python in a row, on a busy machine."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as the condition holds."""
    await eventually_within(condition, START_S)


class Installed:
    """The program's entry point, of which another version can be put there."""

    def __init__(self, rig: Rig, port: int, workers: int):
        rig.join()
        rig.keep(declared(rig.edges.port))
        self._rig, self.port = rig, port
        self.entry, self.log = rig.path / "bin" / "locci-dns", rig.path / "starts"
        self.entry.parent.mkdir()
        self._config = rig.path / "dns.toml"
        settings = rig.settings(listen=[f"127.0.0.1:{port}"], workers=workers, responses_per_second=0)
        keys = ("identity_dir", "state_dir", "metrics_listen", "listen", "workers", "responses_per_second")
        values = {key: getattr(settings, key) for key in keys}
        texts = [f"{k} = {v if isinstance(v, int | list) else repr(str(v))}\n" for k, v in values.items()]
        self._config.write_text("".join(texts).replace("'", '"'))

    def put(self, version: str, text: str = SCRIPT) -> None:
        """Another version by one rename, as an upgrade does."""
        fresh = self.entry.with_suffix(".new")
        script = text.format(python=sys.executable, log=self.log, version=version, repository=REPOSITORY)
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.rename(self.entry)

    def starts(self) -> list[str]:
        """The versions of the processes that answered first, in order."""
        return [line.split()[0] for line in self.log.read_text().splitlines() if "--bridge" not in line]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """It runs, and ends well."""
        with (self._rig.path / "log").open("ab") as log:
            command = (str(self.entry), "run", "--config", str(self._config))
            process = await asyncio.create_subprocess_exec(*command, stderr=log, stdout=log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) == 0, (self._rig.path / "log").read_text()


class Asking:
    """Clients that ask over and over, each from a port and a network of its own, and never twice the same."""

    def __init__(self, port: int):
        self._port = port
        self.answered = 0
        self.lost: list[str] = []
        self._over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[None]:
        """They ask until the end of the block, and wait for what they have asked then."""
        ways: list[Callable[[int], None]] = [self._over_udp] * CLIENTS + [self._over_tcp] * 4
        tasks = [asyncio.create_task(self._ask(way, number)) for number, way in enumerate(ways)]
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*tasks)

    async def _ask(self, way: Callable[[int], None], number: int) -> None:
        while not self._over.is_set():
            try:
                await asyncio.to_thread(way, number)
                self.answered += 1
            except (OSError, EOFError) as error:
                self.lost.append(f"{way.__name__}: {error!r}")
            await asyncio.sleep(0.05)

    def _over_udp(self, number: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((f"127.0.{20 + number}.1", 0))
            client.settimeout(ANSWER_S)
            client.sendto(dns.message.make_query("hello.example.net", "A").to_wire(), ("127.0.0.1", self._port))
            assert dns.message.from_wire(client.recv(4096)).answer

    def _over_tcp(self, number: int) -> None:
        query = dns.message.make_query("hello.example.net", "A")
        assert dns.query.tcp(query, "127.0.0.1", ANSWER_S, self._port, source=f"127.0.{20 + number}.1").answer


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_new_version_takes_its_place_and_no_question_is_lost(rig: Rig, workers: int) -> None:
    installed = Installed(rig, free_port(), workers)
    installed.put("1")
    async with installed.running() as process:
        asking = Asking(installed.port)
        await eventually(lambda: answers(installed.port))
        async with asking.clients():
            before, asked = children(process.pid), asking.answered
            installed.put("2")
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: installed.starts() == ["1", "2"])
            await eventually(lambda: len(children(process.pid) - before) == workers - 1 == len(children(process.pid)))
            await eventually(lambda: asking.answered > asked + 100)
        assert (asking.lost, process.returncode) == ([], None)


async def test_a_version_that_does_not_start_is_left_alone(rig: Rig) -> None:
    installed = Installed(rig, free_port(), 2)
    installed.put("1")
    async with installed.running() as process:
        asking = Asking(installed.port)
        await eventually(lambda: answers(installed.port))
        await eventually(lambda: len(children(process.pid)) == 1)
        workers = children(process.pid)
        async with asking.clients():
            installed.put("2", BROKEN)
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: "not reloaded" in (rig.path / "log").read_text())
        assert (asking.lost, installed.starts(), children(process.pid)) == ([], ["1"], workers)
        # What was taken out for the one that did not come is there for the next.
        installed.put("3")
        async with (again := Asking(installed.port)).clients():
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: installed.starts()[-1] == "3" and len(children(process.pid)) == 1)
        assert again.lost == []


def children(pid: int) -> set[int]:
    """The child processes of a process."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def answers(port: int) -> bool:
    """Whether a question is answered."""
    try:
        dns.query.udp(dns.message.make_query("hello.example.net", "A"), "127.0.0.1", 0.5, port)
    except (OSError, EOFError, dns.exception.DNSException):
        return False
    return True
