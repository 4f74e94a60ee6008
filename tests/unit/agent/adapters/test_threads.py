"""Calls that block, in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.adapters.threads import Threads


async def test_results_and_errors_come_back() -> None:
    threads = Threads("test", 1)
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_a_call_that_was_given_up_before_it_began_is_never_made() -> None:
    threads, gate, made = Threads("test", 1), threading.Event(), []
    blocking = asyncio.create_task(threads.run(gate.wait))
    waiting = asyncio.create_task(threads.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    await blocking
    await threads.run(lambda: None)
    assert made == []
