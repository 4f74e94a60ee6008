"""Wires one worker together and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from agent.edge import admin
from agent.edge.access_log import AccessLog
from agent.edge.checks import Checks
from agent.edge.client_tls import ClientTls
from agent.edge.config_link import ConfigLink
from agent.edge.core.routing import Table
from agent.edge.exchange import Exchange
from agent.edge.fetcher import Fetcher
from agent.edge.filler import Filler
from agent.edge.handover import ALONE, Handover
from agent.edge.listener import Listener
from agent.edge.peers import PeerTls
from agent.edge.pool import Pool
from agent.edge.rates import Rates
from agent.edge.redis_region import Region, region_of
from agent.edge.redis_tier import RedisTier
from agent.edge.settings import EdgeSettings
from agent.edge.state import EdgeState
from agent.edge.tickets import Tickets
from fleet.clock import SystemClock
from fleet.errors import LocciError, invalid

SWEEP_S: Final = 0.25
LOG_FLUSH_S: Final = 0.2
IDENTITY_CHECK_SWEEPS: Final = 8
log = structlog.get_logger()


class Worker:
    """One process's edge: start, serve until told to stop, drain."""

    def __init__(self, settings: EdgeSettings, number: int = 0, handed: Handover = ALONE):
        self.settings = settings
        self._number = number
        loop = asyncio.get_running_loop()
        clock, rng = SystemClock(), random.Random()
        self.state = EdgeState(settings, clock, rng, None)
        region = _region(settings) if settings.redis_url else None
        connect = region.connect if region is not None else None
        if connect is not None:
            self.state.tier = RedisTier(connect, settings.redis_timeout_s, clock, rng, self.state.counters)
        self._rates = Rates(settings, connect, clock, rng, self.state.counters)
        self._handed = handed
        if settings.access_log:
            self.state.access_log = AccessLog(settings.access_log, clock)
        self._tls = PeerTls()
        self._pool = Pool(loop, settings.connect_timeout_s, self._tls)
        fetcher = Fetcher(self.state, self._pool)
        self._checks = Checks(self.state, self._pool)
        self._filler = Filler(self.state, fetcher)
        exchange = Exchange(self.state, fetcher, self._filler)
        self._client_tls = ClientTls(clock.wall())
        self._tickets = Tickets(settings.state_dir, clock) if settings.https_listen else None
        self._plain = [Listener(self.state, exchange, loop, handed=handed) for _ in settings.http_listen]
        self._secure = [
            Listener(self.state, exchange, loop, clients=self._client_tls, handed=handed) for _ in settings.https_listen
        ]
        self._clients = [*self._plain, *self._secure]
        self._peers = Listener(self.state, exchange, loop, peers=self._tls, handed=handed)
        self.link = ConfigLink(self.state, self._apply)
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: asyncio.Future[None] | None = None
        self._admin: admin.Admin | None = None
        self._peer_change = asyncio.Event()
        self.http_ports: list[int] = []
        self.https_ports: list[int] = []
        self.peer_port = 0

    async def start(self) -> None:
        """Serves by what is on disk, and listens. Raises LocciError when it cannot listen."""
        self.link.boot()
        self._refresh_tickets()
        if self.settings.admin_listen:
            try:
                self._admin = await admin.serve(self.state, self.settings.admin_listen, self._number)
            except OSError as error:
                raise invalid("admin_listen", f"cannot listen on {self.settings.admin_listen}: {error}") from error
        for listener, text in zip(self._secure, self.settings.https_listen, strict=True):
            self.https_ports.append(await listener.listen(text))
        self.state.https_port = next(iter(self.https_ports), 0)
        for listener, text in zip(self._plain, self.settings.http_listen, strict=True):
            self.http_ports.append(await listener.listen(text))
        for work in (self.link.run(), self._sweep(), self._listen_for_peers(), self._write_log()):
            self._spawn(work)
        self._spawn(self._rates.run())
        self._spawn(self._checks.run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_ended)
        self._tasks.append(task)

    def _apply(self, table: Table) -> None:
        self.state.apply(table)
        self._rates.adopt(table)
        self.state.rates = self._rates if self._rates.active else None
        self._client_tls.take(table.certificates)
        if self._tls.configure(table.identity_dir, table.trust_domain, table.revoked):
            self._peers.expel_strangers()
            self._pool.forget_peers()
        self._refresh_identity()
        self.state.counters.config_applied_total += 1

    def _refresh_identity(self) -> None:
        if self._tls.refresh():
            self._pool.forget_peers()
            self._peer_change.set()

    def _refresh_tickets(self) -> None:
        if self._tickets is not None:
            self._tickets.refresh(self._client_tls.context)

    async def _listen_for_peers(self) -> None:
        """Listens for other edges whenever there is an identity to show, always with the present one."""
        text = self.settings.peer_listen
        while text:
            await self._peer_change.wait()
            self._peer_change.clear()
            if self.state.draining:
                return
            if self._tls.server_context() is None:
                self._peers.stop_accepting()
                continue
            try:
                self.peer_port = await self._peers.listen(text)
            except LocciError as error:
                log.error("cannot listen for other edges", reason=error.message)
                await asyncio.sleep(1.0)
                self._peer_change.set()

    async def _sweep(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            turn += 1
            for listener in (*self._clients, self._peers):
                listener.sweep()
            self._pool.sweep(set(self.state.endpoints))
            if turn % IDENTITY_CHECK_SWEEPS == 0:
                self._refresh_identity()
                self._refresh_tickets()

    async def _write_log(self) -> None:
        access_log = self.state.access_log
        while access_log is not None:
            await asyncio.sleep(LOG_FLUSH_S)
            lines = access_log.take()
            try:
                if lines:
                    # Not given up with this task: lines that have been taken are nowhere else.
                    self._writing = asyncio.ensure_future(asyncio.to_thread(access_log.write, lines))
                    await asyncio.shield(self._writing)
            except OSError as error:
                log.warning("the access log cannot be written", reason=str(error))

    def _stop_accepting(self) -> None:
        for listener in (*self._clients, self._peers):
            listener.stop_accepting()
        self._handed.let_go()

    async def retire(self, stop: asyncio.Event) -> None:
        """Leaves new connections to the worker that has come in its place, and ends its own as their clients allow.

        Until `stop`, or for as long as the settings say.
        """
        self.state.draining = self.state.retiring = True
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.reload_timeout_s
        listeners = (*self._clients, self._peers)
        self._stop_accepting()
        while sum(listener.retire(clock()) for listener in listeners) and clock() < deadline and not stop.is_set():
            await asyncio.sleep(0.05)

    async def drain(self) -> None:
        """Stops accepting, answers health with 503, and lets what is in progress end."""
        self.state.draining = True
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.drain_timeout_s
        listeners = (*self._clients, self._peers)
        self._stop_accepting()
        while sum(listener.drain(clock()) for listener in listeners) and clock() < deadline:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ends at once."""
        for listener in (*self._clients, self._peers):
            listener.stop_accepting()
            listener.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._filler.close()
        if self.state.tier is not None:
            await self.state.tier.close()
        await self._rates.close()
        if self._admin is not None:
            await self._admin.close()
        if self.state.access_log is not None:
            if self._writing is not None:
                await asyncio.wait((self._writing,))
            with contextlib.suppress(OSError):
                self.state.access_log.write(self.state.access_log.take())
        self._pool.sweep(set())


def _region(settings: EdgeSettings) -> Region:
    try:
        return region_of(settings.redis_url)
    except ValueError as error:
        raise invalid("redis_url", f"{settings.redis_url}: {error}") from error


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task of the edge ended", reason=repr(error))


async def run(settings: EdgeSettings, number: int = 0, handed: Handover = ALONE) -> None:
    """Runs one worker until SIGTERM or SIGINT, then drains; with a supervisor above it also until SIGHUP, when another
    has come in its place, or until the supervisor has gone."""
    stop, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number_of_signal in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number_of_signal, _set, stop, leave)
    if handed.lifeline >= 0:
        loop.add_signal_handler(signal.SIGHUP, leave.set)
        loop.add_reader(handed.lifeline, _orphaned, loop, handed.lifeline, stop, leave)
    worker = Worker(settings, number, handed)
    await worker.start()
    log.info("edge is serving", http=settings.http_listen, generation=worker.state.table.generation)
    if handed.ready >= 0:
        os.write(handed.ready, b"1")
        os.close(handed.ready)
    await leave.wait()
    if not stop.is_set():
        await worker.retire(stop)
    await worker.drain()
    await worker.stop()


def _orphaned(loop: asyncio.AbstractEventLoop, lifeline: int, *ends: asyncio.Event) -> None:
    """Nobody is left who would start another worker, or end this one."""
    loop.remove_reader(lifeline)
    _set(*ends)


def _set(*events: asyncio.Event) -> None:
    for event in events:
        event.set()
