"""A child that may have been started by another program: the one whose place this one took in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

KILL_WAIT_S: Final = 5.0


class ChildProcess:
    """It is known by a descriptor, so that its number may be used again. On the event loop only."""

    def __init__(self, pid: int):
        """Raises OSError when there is no such process."""
        self.pid = pid
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit code, negative for a signal; 0 when it is nobody's child that this process could know it of."""
        self._descriptor = os.pidfd_open(pid)
        loop.add_reader(self._descriptor, self._reap)

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> ChildProcess:
        """Starts a program. Raises OSError."""
        process = subprocess.Popen(command, env=environment)
        # It is waited for by its number, as one that was adopted.
        process.returncode = 0
        return cls(process.pid)

    def tell(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it has ended."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def end(self, within_s: float) -> None:
        """Tells it to end, and kills it when it does not within the time."""
        self.tell(signal.SIGTERM)
        await asyncio.wait((self.ended,), timeout=within_s)
        if not self.ended.done():
            self.tell(signal.SIGKILL)
            await asyncio.wait((self.ended,), timeout=KILL_WAIT_S)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            code = 0
        self.ended.set_result(code)
