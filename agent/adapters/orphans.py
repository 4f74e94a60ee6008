"""Ends containers that outlived the engine's memory of them (agent.core.orphans)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from agent.adapters.containers import LABEL_NODE
from agent.adapters.docker_client import Client, Clients
from agent.adapters.engine_errors import explain
from agent.adapters.threads import Threads
from agent.core.messages import RecordEvent
from agent.core.orphans import Keeper, OrphanPlan, plan
from fleet import telemetry

log = structlog.get_logger()

LOOK_EVERY_S: Final = 60.0
QUIET_S: Final = 0.3
CONFIRM_S: Final = 1.0
RETRY_S: Final = 5.0
PROC: Final = Path("/proc")
_NAME: Final = "containerd-shim"
"""The first 15 characters of the program's name, whatever its version (proc_pid_comm(5))."""
_PARENT: Final = 1
_STARTED: Final = 19
"""Which words after a process's name in `/proc/PID/stat` these are (proc_pid_stat(5), fields 4 and 22)."""


class Ledger:
    """Which containers this agent made: an empty file each. What cannot be noted is not ended either."""

    def __init__(self, folder: Path):
        self._folder = folder

    def note(self, container_id: str) -> None:
        """A disk that is full keeps no container from starting."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self._folder / container_id).touch(mode=0o600)

    def read(self) -> frozenset[str]:
        """All that were noted and not forgotten."""
        try:
            return frozenset(path.name for path in self._folder.iterdir())
        except OSError:
            return frozenset()

    def forget(self, container_id: str) -> None:
        """It is gone for good."""
        with contextlib.suppress(OSError):
            (self._folder / container_id).unlink()


class Orphans:
    """Looks when it is told to, and from time to time. On the event loop, but for `note`."""

    def __init__(self, clients: Clients, node: str, ledger: Ledger, proc: Path = PROC):
        self._clients = clients
        self._node = node
        self._ledger = ledger
        self._proc = proc
        self._threads = Threads("orphans", 1)
        self._stale = asyncio.Event()
        self._stale.set()
        self._suspects: frozenset[Keeper] = frozenset()
        self._complained = ""
        self.record: Callable[[RecordEvent], None] = lambda event: None
        """Takes what was done."""

    def note(self, container_id: str) -> None:
        """This agent made the container; to be called, in any thread, before it is started."""
        self._ledger.note(container_id)

    def look(self) -> None:
        """To be called when the engine may have forgotten something: it was away, or has removed what it took for dead.
        What comes together is looked for once."""
        self._stale.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            if not self._suspects:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._stale.wait()
                await asyncio.sleep(QUIET_S)
            self._stale.clear()
            try:
                await self._look()
                self._complained = ""
            except Exception as error:
                reason = explain(error, self._clients.base_url).reason
                if reason != self._complained:
                    log.warning("orphans_not_looked_for", **{telemetry.REASON: reason})
                self._complained = reason
                await asyncio.sleep(RETRY_S)
                self._stale.set()
            await asyncio.sleep(CONFIRM_S)

    async def _look(self) -> None:
        steps = await self._threads.run(lambda: self._plan(self._clients.get()))
        self._suspects = steps.suspects
        for keeper in steps.end:
            await self._threads.run(lambda k=keeper: end(k, self._proc))  # type: ignore[misc]
            message = (
                f"container {keeper.container_id[:12]} was ended: it ran on although Docker Engine had forgotten it"
            )
            self.record(RecordEvent("OrphanEnded", "warning", (), message, {"container": keeper.container_id}))
        for container_id in steps.gone:
            self._ledger.forget(container_id)

    # ---- in a thread

    def _plan(self, client: Client) -> OrphanPlan:
        made = self._ledger.read()
        found = [keeper for keeper in keepers(self._proc) if keeper.container_id in made]
        listed = {
            summary["Id"] for summary in client.containers(all=True, filters={"label": f"{LABEL_NODE}={self._node}"})
        }
        # What an older version of this agent made.
        for container_id in listed - made:
            self._ledger.note(container_id)
        return plan(found, made=made, listed=listed, suspects=self._suspects)


def keepers(proc: Path = PROC) -> Iterator[Keeper]:
    """The shims of this machine, of whatever engine."""
    for folder in proc.iterdir():
        if folder.name.isdigit() and (found := _keeper(folder)) is not None:
            yield found


def end(keeper: Keeper, proc: Path = PROC) -> None:
    """Kills a container's processes, then its shim, upon which containerd clears away what is left of it. One that is
    gone is fine. Raises OSError when the host does not allow it."""
    with contextlib.suppress(ProcessLookupError), _opened(keeper.pid) as shim:
        # By descriptors: a number that another process got meanwhile is not hit.
        if _keeper(proc / str(keeper.pid)) != keeper:
            return
        for folder in proc.iterdir():
            if folder.name.isdigit() and _stat(folder)[_PARENT : _PARENT + 1] == [str(keeper.pid)]:
                with contextlib.suppress(ProcessLookupError), _opened(int(folder.name)) as child:
                    if _stat(folder)[_PARENT : _PARENT + 1] == [str(keeper.pid)]:
                        signal.pidfd_send_signal(child, signal.SIGKILL)
        signal.pidfd_send_signal(shim, signal.SIGKILL)


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _keeper(folder: Path) -> Keeper | None:
    try:
        if (folder / "comm").read_text().strip() != _NAME:
            return None
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    started = _stat(folder)[_STARTED : _STARTED + 1]
    if "-id" not in words[:-1] or not started:
        return None
    return Keeper(int(folder.name), started[0], words[words.index("-id") + 1])


def _stat(folder: Path) -> list[str]:
    """The words after the process's name; none when it is gone."""
    try:
        return (folder / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
