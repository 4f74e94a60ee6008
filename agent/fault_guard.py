"""A process beside the agent that ends a fault whose time is over when the agent does not: because it is stopped
(SIGSTOP), hangs, or has ended where nothing starts it again. It looks at what the agent has written down, and ends when
nothing is in effect any more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from agent.adapters.breaker import Breaker
from agent.adapters.fault_journal import FaultJournal
from agent.faults import JOURNAL_NAME, end, uptime_s
from fleet import telemetry
from fleet.errors import LocciError

log = structlog.get_logger()

GRACE_S: Final = 5.0
"""The agent has so long to end a fault by itself."""
_LOOK_S: Final = 1.0


class FaultGuard:
    """Has the process run while faults are in effect."""

    def __init__(self, state_dir: Path, restart_commands: Mapping[str, Sequence[str]]):
        arguments = (str(state_dir), json.dumps({name: list(command) for name, command in restart_commands.items()}))
        self._command = [sys.executable, "-m", "agent.fault_guard", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """It runs; the journal must name a fault by then. Raises OSError."""
        if self._process is None or self._process.poll() is not None:
            # A session of its own: what is sent to the agent's group does not reach it.
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)


def watch(state_dir: Path, breaker: Breaker) -> None:
    """Returns when no fault is in effect any more."""
    while (journal := FaultJournal(state_dir / JOURNAL_NAME)).journal.active:
        for active in journal.journal.active:
            if uptime_s() >= active.until + GRACE_S:
                _end(journal, breaker, active.fault.name)
        time.sleep(_LOOK_S)


def _end(journal: FaultJournal, breaker: Breaker, name: str) -> None:
    fault = next(active.fault for active in journal.journal.active if active.fault.name == name)
    try:
        end(journal, breaker, fault)
    except (LocciError, OSError) as error:
        log.error("fault_not_undone", **{telemetry.REASON: f"{name}: {error}; tried again in {_LOOK_S:g} s"})
    else:
        log.warning("fault", **{telemetry.REASON: f"{name} was undone beside the agent, which had not done so"})


def main() -> None:
    """With the state's directory and the commands that start programs again."""
    telemetry.configure_logging("locci-agent")
    state_dir = Path(sys.argv[1])
    watch(state_dir, Breaker(state_dir, json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
