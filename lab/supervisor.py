"""The lab's supervisor: starts programs and starts them again when they end, as an init system would on a host.

One per lab, its own process. It takes commands as JSON lines over a unix socket, one answer each: `start`, `stop`,
`kill`, `release`, `status`, `shutdown`. When it dies itself, its programs go on; `locci-lab down` finds them all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fleet.errors import LocciError, failed_precondition, invalid, not_found
from lab.layout import Layout
from lab.processes import ProcessId, identify, kill, write_pid_file
from lab.restart import RestartState

LOG_BYTES_MAX: Final = 16 * 1024 * 1024
_LOG_CHECK_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 6.0
_REQUEST_BYTES_MAX: Final = 256 * 1024


@dataclass(slots=True)
class Entry:
    """A program under supervision."""

    host: str
    program: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    pid_file: Path
    state: RestartState = field(default_factory=RestartState)
    process: ProcessId | None = None
    started: float = 0.0
    phase: str = "starting"
    last_exit: int | None = None
    wanted: bool = True
    held: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def report(self) -> dict[str, Any]:
        """What `status` says of it; times are seconds since 1970."""
        return {
            "host": self.host,
            "program": self.program,
            "phase": self.phase,
            "pid": self.process.pid if self.process else None,
            "started": self.started if self.process else None,
            "restarts": self.state.restarts,
            "last_exit": self.last_exit,
            "log": str(self.log),
        }


class Supervisor:
    """Keeps programs running until told otherwise."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._entries: dict[tuple[str, str], Entry] = {}
        self.stopping = asyncio.Event()

    async def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out one command; raises LocciError when it cannot."""
        match request.get("op"):
            case "start":
                return self._start(request)
            case "stop":
                await self._stop(self._entry(request))
            case "kill":
                return self._kill(self._entry(request), hold=bool(request.get("hold")))
            case "release":
                return {"released": self._release()}
            case "status":
                return {"pid": os.getpid(), "programs": [entry.report() for entry in self._entries.values()]}
            case "shutdown":
                self.stopping.set()
            case other:
                raise invalid("op", f"the supervisor knows no command {other!r}")
        return {}

    def _start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        host, program = str(request["host"]), str(request["program"])
        present = self._entries.get((host, program))
        if present is not None and present.wanted:
            raise failed_precondition("RUNNING", f"{program} on {host} is under supervision already")
        entry = Entry(
            host,
            program,
            [str(part) for part in request["argv"]],
            {str(key): str(value) for key, value in request["env"].items()},
            self._layout.log(host, program),
            self._layout.pids / f"{host}.{program}.json",
        )
        self._entries[host, program] = entry
        entry.task = asyncio.create_task(self._keep(entry))
        entry.task.add_done_callback(lambda task: _report_defect(entry, task))
        return {}

    def _entry(self, request: Mapping[str, Any]) -> Entry:
        host, program = str(request.get("host")), str(request.get("program"))
        entry = self._entries.get((host, program))
        if entry is None:
            there = ", ".join(sorted(name for where, name in self._entries if where == host)) or "nothing"
            raise not_found(f"{host}/{program}", f"no program {program!r} runs on host {host!r}; there is {there}")
        return entry

    def _kill(self, entry: Entry, *, hold: bool) -> dict[str, Any]:
        entry.held = entry.held or hold
        if hold:
            entry.released.clear()
        pid = entry.process.pid if entry.process else None
        killed = entry.process is not None and kill(entry.process)
        return {"killed": killed, "pid": pid if killed else None}

    def _release(self) -> list[str]:
        held = [entry for entry in self._entries.values() if entry.held]
        for entry in held:
            entry.held = False
            entry.released.set()
        return [f"{entry.host}/{entry.program}" for entry in held]

    async def _keep(self, entry: Entry) -> None:
        while entry.wanted:
            if entry.held:
                entry.phase = "held"
                await entry.released.wait()
                continue
            entry.state, delay_s = entry.state.ended(await self._run_once(entry))
            if entry.wanted and not entry.held:
                entry.phase = "waiting"
                await asyncio.sleep(delay_s)
        entry.phase = "stopped"

    async def _run_once(self, entry: Entry) -> float:
        """Starts the program and waits for its end; seconds that it ran."""
        began = time.monotonic()
        try:
            with entry.log.open("ab") as log:
                child = await asyncio.create_subprocess_exec(
                    *entry.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=entry.env,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            _note(entry, f"cannot be started: {error}")
            return 0.0
        entry.process = identify(child.pid)
        if entry.process is not None:
            write_pid_file(entry.pid_file, entry.process)
        entry.started, entry.phase = time.time(), "running"
        try:
            entry.last_exit = await child.wait()
        finally:
            if child.returncode is not None:
                entry.pid_file.unlink(missing_ok=True)
        entry.process = None
        _note(entry, f"ended with {_describe(entry.last_exit)}")
        return time.monotonic() - began

    async def _stop(self, entry: Entry) -> None:
        """SIGTERM, and SIGKILL when it takes too long; returns when the program is gone."""
        entry.wanted = False
        entry.held = False
        entry.released.set()
        task = entry.task
        if task is None:
            return
        if entry.process is None:
            task.cancel()
            await asyncio.wait([task])
            entry.phase = "stopped"
            return
        kill(entry.process, signal.SIGTERM)
        done, _ = await asyncio.wait([task], timeout=_STOP_TIMEOUT_S)
        if not done and entry.process is not None:
            kill(entry.process)
            await asyncio.wait([task], timeout=_STOP_TIMEOUT_S)

    async def stop_all(self) -> None:
        """Ends every program."""
        await asyncio.gather(*(self._stop(entry) for entry in self._entries.values()))

    async def bound_logs(self) -> None:
        """Keeps logs below their limit: a longer one moves to `.1` by copy, as its writer keeps the file open."""
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for entry in self._entries.values():
                with suppress(OSError):
                    if entry.log.stat().st_size > LOG_BYTES_MAX:
                        entry.log.with_suffix(".log.1").write_bytes(entry.log.read_bytes()[-LOG_BYTES_MAX:])
                        os.truncate(entry.log, 0)


def _report_defect(entry: Entry, task: asyncio.Task[None]) -> None:
    """A defect of the supervisor's own must not end in silence: the program would just not be there."""
    if not task.cancelled() and (error := task.exception()) is not None:
        entry.phase = "failed"
        _note(entry, f"is no longer supervised: {error!r}")


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _note(entry: Entry, text: str) -> None:
    """A line of the supervisor's own in the program's log and in its own."""
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}Z supervisor: {entry.program} on {entry.host} {text}\n"
    sys.stderr.write(line)
    with suppress(OSError), entry.log.open("a") as log:
        log.write(line)


async def _converse(supervisor: Supervisor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
        while line := await reader.readline():
            writer.write(json.dumps(await _answer(supervisor, line)).encode() + b"\n")
            await writer.drain()
    writer.close()


async def _answer(supervisor: Supervisor, line: bytes) -> dict[str, Any]:
    try:
        return {"ok": True} | await supervisor.handle(json.loads(line))
    except LocciError as error:
        return {"ok": False, "error": error.message}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"ok": False, "error": f"not a command: {error!r}"}


async def serve(layout: Layout) -> None:
    """Runs until SIGTERM, SIGINT or a `shutdown`; every program has ended when it returns."""
    supervisor = Supervisor(layout)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stopping.set)
    layout.socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(
        lambda reader, writer: _converse(supervisor, reader, writer), layout.socket, limit=_REQUEST_BYTES_MAX
    )
    me = identify(os.getpid())
    assert me is not None
    write_pid_file(layout.pids / "supervisor.json", me)
    logs = asyncio.create_task(supervisor.bound_logs())
    await supervisor.stopping.wait()
    logs.cancel()
    await supervisor.stop_all()
    server.close()
    layout.socket.unlink(missing_ok=True)
    (layout.pids / "supervisor.json").unlink(missing_ok=True)


def main() -> int:
    """`python -m lab.supervisor --state-dir DIR`; started by `locci-lab up`, of no use by hand."""
    parser = argparse.ArgumentParser(prog="lab.supervisor", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    asyncio.run(serve(Layout(parser.parse_args().state_dir)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
