"""Faults of programs that are killed (SIGKILL) and kept down until their time is over.

How each is started again is written down before it is killed: by its unit of systemd, or by the command that the host's
settings name. Where nothing is known to start a program again it is not killed. To undo it is to have it running.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from agent.adapters.host_command import run
from agent.adapters.host_processes import processes, processes_of, send
from agent.core.faults import AGENT, PROGRAMS
from fleet import telemetry
from fleet.errors import Code, LocciError, failed_precondition
from fleet.files import write_atomic

log = structlog.get_logger()

NAME: Final = "drill-killed.json"
_LOOK_S: Final = 0.4
_ENGINE: Final = "dockerd"
_END_S: Final = 5.0
_PROC: Final = Path("/proc")
_UNIT: Final = re.compile(r"/system\.slice/(?:[^\n]*/)?([^/\n]+\.service)", re.MULTILINE)

Commands = list[list[str]]
"""What starts a program again, one after the other; none where its supervisor does by itself."""


class Killer:
    """Kills programs of this host and keeps them down. Blocking; one fault at a time."""

    def __init__(
        self,
        state_dir: Path,
        restart_commands: Mapping[str, Sequence[str]] | None = None,
        kill_containers: Callable[[], None] = lambda: None,
    ):
        """`restart_commands` are those of programs that are no units of systemd; an empty one says that a supervisor
        starts it again by itself."""
        self._path = state_dir / NAME
        self._configured = dict(restart_commands or {})
        self._kill_containers = kill_containers
        self._watch: threading.Thread | None = None
        self._over = threading.Event()
        self._down: tuple[str, ...] = ()

    def begin(self, program: str) -> None:
        """The program is dead when this returns; the agent never returns. Raises FAILED_PRECONDITION when it does not
        run, or nothing would start it again; UNAVAILABLE when the host does not allow it."""
        if program == AGENT:
            self._commands(AGENT, os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)
        everything = processes()
        found = processes_of(program, everything)
        if not found:
            raise failed_precondition("PROGRAM_DOWN", f"{program} does not run on this host")
        self._keep_down({program: self._commands(program, found[0].pid)})

    def begin_all(self) -> None:
        """Every program of the fleet on this host but the agent, and every container of it, are dead when this
        returns."""
        everything = processes()
        found = {program: processes_of(program, everything) for program in PROGRAMS}
        restarts = {program: self._commands(program, of[0].pid) for program, of in found.items() if of}
        if not restarts:
            raise failed_precondition("PROGRAM_DOWN", "no program of the fleet but the agent runs on this host")
        # The engine is needed for its containers; all else goes at once, as when the power goes.
        self._keep_down(restarts, spared=_ENGINE)
        self._kill_containers()
        self._down = tuple(restarts)
        _kill(self._down)

    def end(self) -> None:
        """What was killed runs again. Raises UNAVAILABLE while it does not; it may be repeated."""
        self._over.set()
        if self._watch is not None:
            self._watch.join(_END_S)
            self._watch = None
        try:
            restarts: dict[str, Commands] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            # Written whole or not at all; whatever else is there is not ours to act on.
            self._path.unlink(missing_ok=True)
            return
        everything = processes()
        down = [program for program in restarts if not processes_of(program, everything)]
        for program in down:
            for command in restarts[program]:
                run(command, check=False)
        if down:
            message = f"{', '.join(down)}: not started again yet"
            raise LocciError(Code.UNAVAILABLE, "PROGRAM_STAYS_DOWN", message)
        self._path.unlink(missing_ok=True)

    def _keep_down(self, restarts: dict[str, Commands], spared: str = "") -> None:
        write_atomic(self._path, json.dumps(restarts).encode())
        self._over = threading.Event()
        self._down = tuple(program for program in restarts if program != spared)
        _kill(self._down)
        # A daemon: what an agent that ends leaves undone is for the next one.
        self._watch = threading.Thread(target=self._look, args=(self._over,), daemon=True)
        self._watch.start()

    def _look(self, over: threading.Event) -> None:
        """Kills what init starts again, until it is over."""
        while not over.wait(_LOOK_S):
            try:
                _kill(self._down)
            except (LocciError, OSError) as error:
                log.error("program_not_killed", **{telemetry.REASON: str(error)})

    def _commands(self, program: str, pid: int) -> Commands:
        """What starts a program again. Raises FAILED_PRECONDITION when nothing is known to."""
        configured = self._configured.get(program)
        if configured is not None:
            return [list(configured)] if configured else []
        unit = unit_of(_read(pid))
        if unit:
            # Killed again and again, it may have reached the limit of its starts.
            return [["systemctl", "reset-failed", unit], ["systemctl", "start", unit]]
        message = (
            f"{program} is no unit of systemd, so that nothing is known to start it again: "
            f"name the command in restart_commands of the agent's settings, an empty one when its supervisor does"
        )
        raise failed_precondition("NOT_RESTARTED", message)


def unit_of(cgroups: str) -> str:
    """The unit of systemd that a process belongs to, by its /proc/PID/cgroup; empty for none."""
    found = _UNIT.search(cgroups)
    return found.group(1) if found else ""


def _read(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cgroup").read_text()
    except OSError:
        return ""


def _kill(programs: Sequence[str]) -> None:
    everything = processes()
    for program in programs:
        for process in processes_of(program, everything):
            send(process, signal.SIGKILL, program)
