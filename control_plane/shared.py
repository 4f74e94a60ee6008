"""A control plane among several that share a PostgreSQL database: leads while it holds the lease, else sends on.

To begin to lead is to start: the whole state is read anew, nodes come back and are given the time that they are given
after a restart. To stand down is to stop. Nothing else differs from a control plane that is alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from control_plane import master_key, metrics
from control_plane.adapters.postgres_store import PostgresLease, PostgresStore
from control_plane.adapters.sqlite_store import SqliteStore
from control_plane.app import ControlPlane, StartHttp, host_of, port_of, server_context
from control_plane.core.leadership import (
    Answered,
    Ask,
    Began,
    Broke,
    Command,
    Event,
    Failed,
    Follow,
    Lead,
    Leadership,
    Notified,
    StandDown,
    Ticked,
)
from control_plane.front import Front, Refusing
from control_plane.http.listener import split_address
from control_plane.origin import open_origin
from control_plane.ports import Store
from control_plane.settings import ServerSettings
from control_plane.state import State
from fleet.backoff import Backoff
from fleet.clock import Clock, SystemClock
from fleet.errors import LocciError, failed_precondition

T = TypeVar("T")

log = structlog.get_logger()

_INIT_S: Final = 60.0
_LISTEN_AGAIN: Final = Backoff(base_s=0.2, cap_s=5.0)


class SharedControlPlane:
    """One process of several. `run` until `stop` is set."""

    def __init__(self, settings: ServerSettings, start_http: StartHttp | None = None, clock: Clock | None = None):
        self._settings = settings
        self._start_http = start_http
        self._clock = clock or SystemClock()
        self._listen = {"http": settings.http_listen, "grpc": settings.grpc_listen, "node": settings.node_listen}
        host = settings.peer_address or socket.gethostname()
        endpoints = {name: f"{host}:{port_of(listen)}" for name, listen in self._listen.items()}
        self._holder = f"{host}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._endpoints = json.dumps(endpoints, sort_keys=True)
        self._lease = PostgresLease(settings.database_url, self._holder, self._endpoints)
        self._machine = Leadership(settings.lease_ttl_s)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._why = "it was not asked yet who does"
        self._tasks: set[asyncio.Task[None]] = set()
        self._plane: ControlPlane | None = None
        self._changing = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows and leads, as it comes, until `stop` is set. Raises what a control plane's start raises."""
        tls, key_and_chain = await self._prepare()
        self._refusing = Refusing(tls, key_and_chain, lambda: self._why)
        ports = await self._refusing.open()
        self._front = Front(self._listen, ports)
        try:
            await self._front.open()
            listening = self._spawn(self._hear())
            stopping = self._spawn(_set(stop))
            self._events.put_nowait(Began())
            while not stop.is_set():
                await self._step(stopping)
            listening.cancel()
        finally:
            await self._end()

    async def _prepare(self) -> Any:
        """What a follower needs: the store's schema, the fleet's CA, a certificate of its own."""
        settings = self._settings
        store = PostgresStore(settings.database_url, self._clock.wall)
        await store.open()
        try:
            state = State(store)
            await state.load()
            if not len(state.authorities):
                await initialise(settings)
                await state.load()
            origin = open_origin(settings, state, self._clock.wall)
        finally:
            await store.close()
        names = [host_of(name) for name in settings.advertise]
        key_and_chain = origin.authority.server_certificate(names)
        return server_context(origin.authority.server_pem), key_and_chain

    async def _step(self, stopping: asyncio.Task[None]) -> None:
        """Takes the next event, and carries out what follows."""
        event: Event = Ticked()
        getting = asyncio.ensure_future(self._events.get())
        try:
            wait_s = self._machine.wait_s(self._clock.monotonic())
            await asyncio.wait({getting, stopping, *self._tasks}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                event = getting.result()
        finally:
            getting.cancel()
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            if not task.cancelled():
                task.result()
        for command in self._machine.handle(event, self._clock.monotonic()):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Ask():
                self._spawn(self._ask())
            case Lead(epoch):
                self._spawn(self._lead(epoch))
            case StandDown(reason):
                log.warning("stands_down", reason=reason)
                self._why = reason
                self._spawn(self._stand_down())
            case Follow(endpoints):
                # What this very host was before it was started again does not answer any more.
                known = json.loads(endpoints) if endpoints != self._endpoints else {}
                log.info("follows", leader=endpoints)
                self._front.follow({name: split_endpoint(address) for name, address in known.items()})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def _ask(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.lease_ttl_s):
                seen = await self._lease.acquire(self._settings.lease_ttl_s)
        except (LocciError, TimeoutError) as error:
            self._why = str(error) or "the database does not answer"
            self._events.put_nowait(Failed(self._why))
            return
        mine = seen.holder == self._holder
        if not mine:
            self._why = "the one that did, or is about to, does not answer"
        self._events.put_nowait(Answered(asked_at, mine, seen.epoch, seen.endpoints, seen.remaining_s))

    async def _hear(self) -> None:
        """Hears when the lease changes hands; without that it is asked for all the same, a little later."""
        failures = 0
        while True:
            with contextlib.suppress(LocciError):
                await self._lease.listen(lambda: self._events.put_nowait(Notified()))
                failures = 0
            await self._clock.sleep(_LISTEN_AGAIN.ceiling_s(failures))
            failures += 1

    async def _lead(self, epoch: int) -> None:
        async with self._changing:
            store = PostgresStore(self._settings.database_url, self._clock.wall, epoch)
            leads = self._leads
            plane = self._plane = ControlPlane(self._settings, self._start_http, self._clock, store, leads)
            try:
                await plane.prepare()
                await plane.start(self._front.close)
            except LocciError as error:
                if error.reason not in ("LEASE_LOST", "STORE_UNAVAILABLE"):
                    raise
                self._events.put_nowait(Broke(error.message))
                return
            self._spawn(plane.wait())
            metrics.LEADS.set(1)
            log.info("leads", epoch=epoch)

    def _leads(self) -> bool:
        return self._machine.leads(self._clock.monotonic())

    async def _stand_down(self) -> None:
        async with self._changing:
            await self._stop_leading()
            await self._front.close()
            await self._front.open()
        self._events.put_nowait(Began())

    async def _stop_leading(self) -> None:
        metrics.LEADS.set(0)
        if self._plane is None:
            return
        await self._plane.stop()
        self._plane = None
        with contextlib.suppress(LocciError, TimeoutError):
            async with asyncio.timeout(self._settings.lease_ttl_s):
                await self._lease.release()
        self._lease.forget()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_leading()
        await self._front.close()
        await self._refusing.close()
        await self._lease.close()


async def initialise(settings: ServerSettings) -> None:
    """Makes what a control plane begins with, when none leads. Raises FAILED_PRECONDITION (ALREADY_LED)."""

    async def prepare(store: Store) -> None:
        plane = ControlPlane(settings, store=store)
        try:
            await plane.prepare()
        finally:
            await plane.stop()

    await _alone(settings, prepare)


async def replace_master_key(settings: ServerSettings) -> int:
    """Seals anew what is sealed, while no control plane runs. Raises FAILED_PRECONDITION (ALREADY_LED)."""

    async def reseal(store: Store) -> int:
        await store.open()
        try:
            state = State(store)
            await state.load()
            return await master_key.replace(settings.data_dir, state)
        finally:
            await store.close()

    if settings.database_url:
        return await _alone(settings, reseal)
    for name, listen in (("node_listen", settings.node_listen), ("grpc_listen", settings.grpc_listen)):
        host, port = split_address(listen)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                message = f"something listens at {name} {listen}: stop the control plane first"
                raise failed_precondition("ALREADY_LED", message) from error
    return await reseal(SqliteStore(settings.data_dir / "locci.db", SystemClock().wall))


async def _alone(settings: ServerSettings, work: Callable[[Store], Awaitable[T]]) -> T:
    """The result of `work` with the store, under the lease. Raises FAILED_PRECONDITION (ALREADY_LED)."""
    wall = SystemClock().wall
    opened = PostgresStore(settings.database_url, wall)
    holder = f"init:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    lease = PostgresLease(settings.database_url, holder, "{}")
    try:
        await opened.open()
        await opened.close()
        seen = await lease.acquire(_INIT_S)
        if seen.holder != holder:
            message = f"a control plane leads already at this database, or begins to ({seen.holder}): nothing was made"
            raise failed_precondition("ALREADY_LED", message)
        try:
            return await work(PostgresStore(settings.database_url, wall, seen.epoch))
        finally:
            await lease.release()
    finally:
        await lease.close()


async def _set(stop: asyncio.Event) -> None:
    await stop.wait()


def split_endpoint(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; the host may be an IPv6 address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
