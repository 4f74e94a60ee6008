"""Threads for calls that block: a fixed number, and none that keeps the program from ending.

An executor's threads are joined when the interpreter exits, so one call to a stuck engine would hold up a stop by its
whole time limit. What these threads do when the program ends is finished by the engine, not by them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

WAITING_MAX: Final = 10_000

_Call = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Threads:
    """Runs calls in `count` daemon threads, first come, first served."""

    def __init__(self, name: str, count: int):
        self._calls: queue.Queue[_Call] = queue.Queue(WAITING_MAX)
        for number in range(count):
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. A caller that is cancelled does not stop a call that has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put_nowait((call, loop, future))
        return await future

    def _serve(self) -> None:
        while True:
            call, loop, future = self._calls.get()
            if future.cancelled():
                continue
            try:
                result, error = call(), None
            except BaseException as raised:  # the waiting task gets it, whatever it is
                result, error = None, raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, future, result, error)


def _answer(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
