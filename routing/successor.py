"""A new version of the program in the place of the running one, without a lost query.

The running program starts the new one as a bridge, which answers from what is on disk at the very sockets of all
processes. Then it leaves, becomes the new program in its own process, and takes its sockets along. When that answers,
the bridge goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from fleet.errors import Code, LocciError
from routing.adapters.handover import Handover

log = structlog.get_logger()

READY_S: Final = 30.0
"""A bridge that does not answer by then is given up."""


def program() -> list[str]:
    """What starts this program as it is by now: its entry point, when it was started by that."""
    entry = Path(sys.argv[0]).absolute()
    if entry.name == "locci-dns" and os.access(entry, os.X_OK):
        return [str(entry)]
    return [sys.executable, "-m", "routing.main"]


@dataclass(frozen=True, slots=True)
class Bridge:
    """One that answers; it ends with the last descriptor of `lifeline`."""

    process: subprocess.Popen[bytes]
    lifeline: int

    def successor(self, config: Path | None, handed: Handover) -> list[str]:
        """The command that this process is to become. Its descriptors outlive the change."""
        given = replace(handed, lifeline=self.lifeline, bridge=self.process.pid)
        for number in given.descriptors():
            os.set_inheritable(number, True)
        return [*program(), "run", *_options(config), "--adopt", given.encode()]

    def end(self) -> None:
        """Kills it; it is of no use."""
        os.close(self.lifeline)
        self.process.kill()
        self.process.wait()


async def bridge(config: Path | None, handed: Handover) -> Bridge:
    """Starts one, and returns when it answers. Raises UNAVAILABLE when it does not."""
    ours, theirs = os.pipe()
    lifeline, end = os.pipe()
    given = replace(handed, ready=theirs, lifeline=lifeline)
    try:
        process = _start(config, given)
    except OSError as error:
        os.close(end)
        os.close(ours)
        raise LocciError(Code.UNAVAILABLE, "NOT_READY", f"{program()[0]}: {error.strerror}") from error
    finally:
        os.close(theirs)
        os.close(lifeline)
    begun = Bridge(process, end)
    if not await _says_ready(ours):
        begun.end()
        message = f"the new program ended, or did not answer within {READY_S:g} s"
        raise LocciError(Code.UNAVAILABLE, "NOT_READY", message)
    return begun


def _start(config: Path | None, given: Handover) -> subprocess.Popen[bytes]:
    command = [*program(), "run", *_options(config), "--bridge", given.encode()]
    return subprocess.Popen(command, pass_fds=tuple(given.descriptors()))


async def see_off(handed: Handover) -> None:
    """Ends the bridge over which this process came here, now that it answers."""
    if handed.lifeline >= 0:
        os.close(handed.lifeline)
    if handed.bridge:
        with contextlib.suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, handed.bridge, 0)


async def gone(descriptor: int) -> None:
    """Returns at the end of a lifeline."""
    await _readable(descriptor)


async def _says_ready(descriptor: int) -> bool:
    try:
        async with asyncio.timeout(READY_S):
            await _readable(descriptor)
            return bool(os.read(descriptor, 1))
    except TimeoutError:
        return False
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, told.set)
    try:
        await told.wait()
    finally:
        loop.remove_reader(descriptor)


def _options(config: Path | None) -> Sequence[str]:
    return ("--config", str(config)) if config is not None else ()
