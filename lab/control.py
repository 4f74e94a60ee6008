"""Talking to a lab's supervisor."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from fleet.errors import Code, LocciError
from lab.layout import Layout
from lab.machine import clean_environment
from lab.programs import Program

_TIMEOUT_S: Final = 15.0
_START_TIMEOUT_S: Final = 10.0


class SupervisorControl:
    """The commands of a supervisor; each call is one connection. UNAVAILABLE when there is no supervisor."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one command; its refusal is raised as FAILED_PRECONDITION."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(_TIMEOUT_S)
                link.connect(str(self._layout.socket))
                link.sendall(json.dumps({"op": op} | arguments).encode() + b"\n")
                with link.makefile("rb") as answers:
                    line = answers.readline()
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            message = (
                f"the lab's supervisor does not answer on {self._layout.socket} ({error}): "
                "programs that end are not started again; take the lab down with `locci-lab down`"
            )
            raise LocciError(Code.UNAVAILABLE, "NO_SUPERVISOR", message) from error
        if not answer.pop("ok"):
            raise LocciError(Code.FAILED_PRECONDITION, "SUPERVISOR_REFUSED", answer["error"])
        return answer

    def running(self) -> bool:
        """Whether a supervisor answers."""
        try:
            self.call("status")
        except LocciError:
            return False
        return True

    def start(self, program: Program) -> None:
        """Puts a program under supervision."""
        environment = clean_environment(program.env)
        self.call("start", host=program.host, program=program.name, argv=list(program.argv), env=environment)

    def programs(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """What is known of each program, by host and name."""
        return {(entry["host"], entry["program"]): entry for entry in self.call("status")["programs"]}


def start_supervisor(layout: Layout) -> None:
    """Starts the lab's supervisor in a session of its own; returns when it answers.

    Raises UNAVAILABLE with its output when it does not within a few seconds.
    """
    log_path = layout.logs / "supervisor.log"
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor", "--state-dir", str(layout.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
            cwd="/",
            start_new_session=True,
        )
    control = SupervisorControl(layout)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (layout.socket.exists() and control.running()):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            said = log_path.read_text()[-2000:]
            raise LocciError(Code.UNAVAILABLE, "NO_SUPERVISOR", f"the lab's supervisor did not start: {said}")
        time.sleep(0.02)
