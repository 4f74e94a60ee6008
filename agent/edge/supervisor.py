"""Several workers on the same listeners: starts them, starts those again that end, stops them all."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Final

import structlog

from fleet.backoff import Backoff

STOP_S: Final = 5.0
_BACKOFF: Final = Backoff(0.2, 10.0)
STABLE_S: Final = 30.0
log = structlog.get_logger()


async def run(config: Path | None, workers: int) -> int:
    """Runs until SIGTERM or SIGINT. Returns 0, or a worker's exit code when it will never be able to start (2 or 3)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(_keep(config, number, stop)) for number in range(workers)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.wait(tasks)
    return next((code for task in done if (code := task.result())), 0)


async def _keep(config: Path | None, number: int, stop: asyncio.Event) -> int:
    attempt, rng = 0, random.Random()
    loop = asyncio.get_running_loop()
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        arguments = ["-m", "agent.edge.main", "worker", "--number", str(number)]
        if config is not None:
            arguments += ["--config", str(config)]
        began = loop.time()
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        ended = asyncio.create_task(process.wait())
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await _end(process)
            break
        code = ended.result()
        if code in (2, 3):
            return code
        attempt = 0 if loop.time() - began > STABLE_S else attempt + 1
        log.warning("a worker ended and is started again", worker=number, exit_code=code)
        delay = _BACKOFF.delay_s(attempt, rng.random())
        await asyncio.wait((stopping,), timeout=delay)
    stopping.cancel()
    return 0


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
