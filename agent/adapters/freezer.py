"""Faults of programs: their processes are stopped (SIGSTOP) and go on (SIGCONT). Which ones is found anew each time.

Nothing needs to be remembered to undo it: every process of every program that can be frozen is told to go on, which
does nothing to one that runs. A program that was started anew meanwhile runs anyway.
"""

from __future__ import annotations

import signal
import time
from typing import Final

from agent.adapters.host_processes import processes, processes_of, send
from agent.core.faults import PROGRAMS
from fleet.errors import Code, LocciError

_ROUNDS_MAX: Final = 100
_ROUND_S: Final = 0.02


class Freezer:
    """Stops a program of this host, and lets it go on. Blocking."""

    def begin(self, program: str) -> None:
        """Every process of the program is stopped. Raises FAILED_PRECONDITION when none runs, else UNAVAILABLE."""
        # One that is stopped last may have started another before.
        for _ in range(_ROUNDS_MAX):
            found = processes_of(program, processes())
            if not found:
                raise LocciError(Code.FAILED_PRECONDITION, "PROGRAM_DOWN", f"{program} does not run on this host")
            running = [process for process in found if not process.stopped]
            if not running:
                return
            for process in running:
                send(process, signal.SIGSTOP, program)
            time.sleep(_ROUND_S)
        raise LocciError(Code.UNAVAILABLE, "PROGRAM_NOT_FROZEN", f"{program} starts processes faster than they stop")

    def end(self) -> None:
        """Everything that could have been frozen goes on. Raises UNAVAILABLE when the host does not allow it."""
        everything = processes()
        for program in PROGRAMS:
            for process in processes_of(program, everything):
                if process.stopped:
                    send(process, signal.SIGCONT, program)
