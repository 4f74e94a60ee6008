"""A real PostgreSQL server for a test: its own cluster in its own directory, on a socket of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.ports import free_port

START_S = 60.0


def _binary(name: str) -> str:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install postgresql"
    return found


class Postgres:
    """A server that can be killed, stopped and started again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._user = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        folder.mkdir(parents=True)
        os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        options = ("-A", "trust", "-U", "locci", "-E", "UTF8", "--no-sync", "--no-locale")
        self._run(_binary("initdb"), "-D", str(folder / "data"), *options)

    def _command(self, *argv: str) -> list[str]:
        if os.geteuid() != 0:
            return list(argv)
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups", *argv]

    def _run(self, *argv: str) -> str:
        argv = tuple(self._command(*argv))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def url(self, database: str = "postgres") -> str:
        """Where it is."""
        return f"postgresql://locci@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        options = (
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.folder}",
            "-c",
            "fsync=off",
        )
        with (self.folder / "log").open("ab") as output:
            argv = self._command(_binary("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options)
            self._process = subprocess.Popen(argv, stdout=output, stderr=output, cwd="/")
        deadline = time.monotonic() + START_S
        ready = [_binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def create(self, database: str) -> str:
        """A new database; its URL."""
        self._run(_binary("createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "locci", database)
        return self.url(database)

    def query(self, database: str, statement: str) -> list[str]:
        """The lines that a statement yields, columns parted by `|`."""
        argv = (_binary("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "locci", "-d", database, "-AtX")
        return self._run(*argv, "-c", statement).splitlines()

    def stop(self) -> None:
        """Ends it; whoever is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
            self._process = None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server, gone in the end."""
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
