"""One worker as its supervisor sees it: started or adopted, ready, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from agent.edge.handover import Handover

KILL_WAIT_S: Final = 5.0


class WorkerProcess:
    """A child process. It is known by a descriptor, so that its number may be used again."""

    def __init__(self, pid: int, ready: int = -1):
        """`ready` is where it says that it serves; one that is adopted has said so."""
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit code, negative for a signal."""
        self.ready: asyncio.Future[bool] = self._loop.create_future()
        """Whether it serves; False when it ended before."""
        self._ready_fd = ready
        self._descriptor = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._reap)
        if ready >= 0:
            self._loop.add_reader(ready, self._hear)
        else:
            self.ready.set_result(True)

    def _hear(self) -> None:
        said = os.read(self._ready_fd, 1)
        self._close_ready()
        if not self.ready.done():
            self.ready.set_result(bool(said))

    def _close_ready(self) -> None:
        if self._ready_fd >= 0:
            self._loop.remove_reader(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = -1

    def _reap(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        try:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            code = 0
        self._close_ready()
        if not self.ready.done():
            self.ready.set_result(False)
        self.ended.set_result(code)

    def tell(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def end(self, within_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Tells it to end, and kills it when it does not within the time."""
        self.tell(number)
        await asyncio.wait((self.ended,), timeout=within_s)
        if not self.ended.done():
            self.tell(signal.SIGKILL)
            await asyncio.wait((self.ended,), timeout=KILL_WAIT_S)


def start(command: Sequence[str], handed: Handover) -> WorkerProcess:
    """A new worker of this command, which gets what is handed over, and a pipe on which it says that it serves.

    Raises OSError.
    """
    ours, theirs = os.pipe()
    try:
        given = Handover(handed.sockets, theirs, handed.lifeline)
        passed = (*given.sockets.values(), theirs, given.lifeline)
        # Waited for by its number, so that one that is adopted is no special case; this object knows of no end.
        process = subprocess.Popen([*command, "--handover", given.encode()], pass_fds=passed)
        process.returncode = 0
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return WorkerProcess(process.pid, ours)
