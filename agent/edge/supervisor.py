"""The process above the workers: it holds the listening sockets, starts workers, starts those again that end, and on
SIGHUP puts new ones, of the program and the settings as they are by then, in the place of the old.

A socket stays open while the worker behind it changes, so that no connection is refused or lost in a queue. The old
workers end what they have. Then the supervisor becomes the new program itself, in the same process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from agent.edge import worker_process
from agent.edge.handover import Adoption, Handover
from agent.edge.listening import bind
from agent.edge.settings import EdgeSettings
from agent.edge.worker_process import WorkerProcess
from fleet.backoff import Backoff
from fleet.errors import Code, LocciError

READY_S: Final = 30.0
"""A worker that does not serve by then is given up."""
MARGIN_S: Final = 5.0
STABLE_S: Final = 30.0
UNSTABLE_ENDS: Final = 2
"""A worker that has ended so often leaves its share of connections to the others until it serves."""
_BACKOFF: Final = Backoff(0.2, 10.0)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
log = structlog.get_logger()

Load = Callable[[Path | None], EdgeSettings]


def program() -> list[str]:
    """What starts this program as it is by now: its entry point, when it was started by that."""
    entry = Path(sys.argv[0]).absolute()
    if entry.name == "locci-edge" and os.access(entry, os.X_OK):
        return [str(entry)]
    return [sys.executable, "-m", "agent.edge.main"]


class Slot:
    """A worker's place: its sockets, and who is in it."""

    def __init__(self, number: int):
        self.number = number
        self.sockets: dict[str, socket.socket] = {}
        self.worker: WorkerProcess | None = None
        self.changed = asyncio.Event()
        self.keeper: asyncio.Task[int] | None = None

    def open(self, texts: list[str]) -> None:
        """Binds what is not bound so far. Raises LocciError."""
        for text in texts:
            if text not in self.sockets:
                self.sockets[text] = bind(text)

    def close(self, *, but: list[str]) -> None:
        """Lets go of sockets that nobody needs."""
        for text in [text for text in self.sockets if text not in but]:
            self.sockets.pop(text).close()

    def put(self, worker: WorkerProcess) -> WorkerProcess | None:
        """The worker has the place now; returns who had it before."""
        before, self.worker = self.worker, worker
        self.changed.set()
        return before


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(self, config: Path | None, settings: EdgeSettings, load: Load):
        self._config = config
        self._settings = settings
        self._load = load
        self._slots: dict[int, Slot] = {}
        self._leaving: set[WorkerProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifeline = (-1, -1)
        self._stop = asyncio.Event()
        self._stopping = asyncio.ensure_future(self._stop.wait())
        self._reload = asyncio.Event()
        self._served = False
        """A worker has served: settings that are wrong by now are no reason to end all of them."""

    async def run(self, adoption: Adoption | None) -> int:
        """Returns 0, or a worker's exit code when it will never be able to start (2 or 3). Raises LocciError."""
        self._take_over(adoption)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, (self._reload if number == signal.SIGHUP else self._stop).set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for slot in self._wanted_slots():
            slot.open(_texts(self._settings))
            slot.keeper = asyncio.create_task(self._keep(slot))
        code = await self._serve()
        self._stop.set()
        ends_s = self._settings.drain_timeout_s + MARGIN_S
        await asyncio.gather(*(worker.end(ends_s) for worker in self._leaving))
        await asyncio.gather(*(slot.keeper for slot in self._slots.values() if slot.keeper is not None))
        return code

    async def _serve(self) -> int:
        """Until it is to end, or a worker never will start."""
        stopping = self._stopping
        while not stopping.done():
            reloading = asyncio.create_task(self._reload.wait())
            keepers = [slot.keeper for slot in self._slots.values() if slot.keeper is not None]
            done, _ = await asyncio.wait((stopping, reloading, *keepers), return_when=asyncio.FIRST_COMPLETED)
            reloading.cancel()
            for keeper in keepers:
                if keeper in done and (code := keeper.result()):
                    return code
            if self._reload.is_set() and not stopping.done():
                self._reload.clear()
                await self._renew()
        return 0

    # ---- workers

    def _wanted_slots(self) -> list[Slot]:
        return [self._slots.setdefault(n, Slot(n)) for n in range(self._settings.worker_count)]

    def _start(self, slot: Slot) -> WorkerProcess:
        command = [*program(), "worker", "--number", str(slot.number)]
        if self._config is not None:
            command += ["--config", str(self._config)]
        sockets = {text: slot.sockets[text].fileno() for text in _texts(self._settings)}
        return worker_process.start(command, Handover(sockets, lifeline=self._lifeline[0]))

    async def _keep(self, slot: Slot) -> int:
        """Has a worker in the slot until the end. Returns an exit code that no other worker would not end with."""
        loop = asyncio.get_running_loop()
        ends, stopping = 0, self._stopping
        while not self._stop.is_set():
            began = loop.time()
            why = self._fill(slot)
            if (worker := slot.worker) is not None:
                slot.changed.clear()
                changed = asyncio.create_task(slot.changed.wait())
                await asyncio.wait((worker.ended, stopping, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if slot.worker is not worker or not worker.ended.done():
                    continue
                slot.worker, code = None, worker.ended.result()
                if code in (2, 3) and not self._served and not self._stop.is_set():
                    return code
                why = f"exit code {code}"
            ends = 0 if loop.time() - began > STABLE_S else ends + 1
            log.warning("a worker ended and is started again", worker=slot.number, reason=why)
            if ends >= UNSTABLE_ENDS and len(self._slots) > 1:
                slot.close(but=[])
            await asyncio.wait((stopping,), timeout=_BACKOFF.delay_s(ends, int.from_bytes(os.urandom(2)) / 65536))
        if slot.worker is not None:
            await slot.worker.end(self._settings.drain_timeout_s + MARGIN_S)
        slot.close(but=[])
        return 0

    def _fill(self, slot: Slot) -> str:
        """Starts a worker where there is none. Returns why that is not possible, in words."""
        if slot.worker is None:
            try:
                slot.open(_texts(self._settings))
                worker = self._start(slot)
            except LocciError as error:
                return error.message
            except OSError as error:  # the program is being exchanged
                return str(error)
            worker.ready.add_done_callback(self._has_served)
            slot.put(worker)
        return ""

    def _has_served(self, ready: asyncio.Future[bool]) -> None:
        self._served = self._served or (not ready.cancelled() and ready.result())

    # ---- a new program, new settings

    async def _renew(self) -> None:
        """New workers in the place of the old, one after the other. The first that does not serve ends it."""
        before = self._settings
        try:
            self._settings = self._load(self._config)
            for worker in self._leaving:  # those of an earlier reload have had their time
                worker.tell(signal.SIGTERM)
            texts = _texts(self._settings)
            for slot in self._wanted_slots():
                slot.open(texts)
                await self._renew_one(slot)
        except (LocciError, OSError) as error:
            self._settings = before
            reason = error.message if isinstance(error, LocciError) else str(error)
            log.error("not reloaded: the workers go on as they were", reason=reason)
            return
        for slot in list(self._slots.values()):
            if slot.number < self._settings.worker_count:
                slot.close(but=texts)
            else:
                self._clear_out(slot)
        log.info("reloaded", workers=self._settings.worker_count)
        self._become()

    async def _renew_one(self, slot: Slot) -> None:
        """Raises LocciError when the new worker does not get so far as to serve."""
        worker = self._start(slot)
        await asyncio.wait((worker.ready, self._stopping), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if not worker.ready.done() or not worker.ready.result():
            await worker.end(0.0)
            why = f"worker {slot.number} of the new program ended, or did not serve within {READY_S:g} s"
            raise LocciError(Code.UNAVAILABLE, "NOT_READY", why)
        before = slot.put(worker)
        if slot.keeper is None or slot.keeper.done():
            slot.keeper = asyncio.create_task(self._keep(slot))
        if before is not None:
            self._retire(before)

    def _clear_out(self, slot: Slot) -> None:
        """There is one worker less."""
        del self._slots[slot.number]
        if slot.keeper is not None:
            slot.keeper.cancel()
        if slot.worker is not None:
            self._retire(slot.worker)
        slot.close(but=[])

    def _retire(self, worker: WorkerProcess) -> None:
        self._leaving.add(worker)
        task = asyncio.create_task(self._see_off(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_off(self, worker: WorkerProcess) -> None:
        await worker.end(self._settings.reload_timeout_s + self._settings.drain_timeout_s + MARGIN_S, signal.SIGHUP)
        self._leaving.discard(worker)

    # ---- becoming another program in the same process

    def _become(self) -> None:
        """Goes on as the new program; as the old one when that is not possible."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        adoption = Adoption(
            {n: slot.worker.pid for n, slot in self._slots.items() if slot.worker is not None},
            tuple(worker.pid for worker in self._leaving),
            {n: {text: sock.fileno() for text, sock in slot.sockets.items()} for n, slot in self._slots.items()},
            self._lifeline,
        )
        kept = [number for sockets in adoption.sockets.values() for number in sockets.values()]
        for number in (*kept, *self._lifeline):
            os.set_inheritable(number, True)
        command = [*program(), "run", "--adopt", adoption.encode()]
        if self._config is not None:
            command += ["--config", str(self._config)]
        try:
            os.execv(command[0], command)  # noqa: S606
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            log.error("the supervisor goes on as the old program", reason=str(error))

    def _take_over(self, adoption: Adoption | None) -> None:
        if adoption is None:
            self._lifeline = os.pipe()
            return
        self._lifeline = adoption.lifeline
        for number in self._lifeline:
            os.set_inheritable(number, False)
        for number, sockets in adoption.sockets.items():
            slot = self._slots[number] = Slot(number)
            for text, descriptor in sockets.items():
                slot.sockets[text] = socket.socket(fileno=descriptor)
                slot.sockets[text].set_inheritable(False)
        self._served = bool(adoption.workers)
        for number, pid in adoption.workers.items():
            self._slots[number].worker = WorkerProcess(pid)
        for pid in adoption.leaving:
            worker = WorkerProcess(pid)
            self._retire(worker)


def _texts(settings: EdgeSettings) -> list[str]:
    """Addresses at which workers listen."""
    found = [*settings.http_listen, *settings.https_listen, settings.peer_listen]
    return [text for text in dict.fromkeys(found) if text]
