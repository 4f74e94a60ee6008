"""Probes edges over HTTP, each address on its own, with as little as a probe needs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from fleet.clock import Clock
from routing.core.evidence import Target
from routing.core.model import TargetKey

_PATH: Final = "/.well-known/locci/health"
_HEAD_MAX: Final = 4096
_OUTSTANDING_MAX: Final = 48
_OWN_TROUBLE: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
)
_ON_THE_WAY: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENETDOWN})


@dataclass(frozen=True, slots=True)
class Good:
    """The edge says that it is in order."""


@dataclass(frozen=True, slots=True)
class Bad:
    """It does not: `silent` when nothing came back from the edge itself."""

    silent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """This host could not even ask; that says nothing about the edge."""

    reason: str


Finding = Good | Bad | Unknown


class _HealthRequest(asyncio.Protocol):
    """One GET; the status line decides."""

    def __init__(self, host: str, finding: asyncio.Future[Finding]):
        self._host = f"[{host}]" if ":" in host else host
        self._finding = finding
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, so there is nothing to check here.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            f"GET {_PATH} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: locci-dns\r\nConnection: close\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._head += data
        line, end, _ = self._head.partition(b"\r\n")
        if end:
            parts = line.split(b" ", 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1."):
                self._end(Bad(False, "it does not speak HTTP"))
            elif parts[1] == b"200":
                self._end(Good())
            else:
                self._end(Bad(False, f"it answered {parts[1][:3].decode('latin-1')}"))
        elif len(self._head) > _HEAD_MAX:
            self._end(Bad(False, "it does not speak HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Bad(False, "it closed the connection without an answer"))

    def _end(self, finding: Finding) -> None:
        if not self._finding.done():
            self._finding.set_result(finding)
        if self._transport is not None:
            self._transport.abort()


async def probe(target: Target) -> Finding:
    """What one request to the target finds, however long that takes."""
    loop = asyncio.get_running_loop()
    finding: asyncio.Future[Finding] = loop.create_future()
    try:
        transport, _ = await loop.create_connection(
            lambda: _HealthRequest(target.address, finding), target.address, target.port
        )
    except ConnectionRefusedError:
        return Bad(False, "connection refused")
    except OSError as error:
        if error.errno in _OWN_TROUBLE:
            return Unknown(str(error))
        return Bad(error.errno in _ON_THE_WAY, error.strerror or str(error))
    try:
        return await finding
    finally:
        transport.abort()


class ProbeSink(Protocol):
    """Who decides when to probe and takes what was found; times are of the monotonic clock."""

    def due_at(self, key: TargetKey) -> float:
        """When the next probe of a target is due."""
        ...

    def timeout_s(self, key: TargetKey) -> float:
        """After so long a probe counts as silent."""
        ...

    def launched(self, key: TargetKey) -> None:
        """A probe is under way."""
        ...

    def succeeded(self, key: TargetKey, round_trip_s: float) -> None:
        """It found the target in order."""
        ...

    def failed(self, key: TargetKey, launched_at: float, silent: bool, reason: str) -> None:
        """It did not."""
        ...

    def unclear(self, key: TargetKey) -> None:
        """This host was not able to ask."""
        ...


Ask = Callable[[Target], Awaitable[Finding]]


class Prober:
    """One task per target; each may have several probes under way, and the first good one ends the others."""

    def __init__(self, sink: ProbeSink, clock: Clock, listen_s: float, ask: Ask = probe):
        self._sink = sink
        self._clock = clock
        self._listen_s = listen_s
        self._ask = ask
        self._watches: dict[TargetKey, _Watch] = {}

    def watch(self, targets: Iterable[Target]) -> None:
        """Probes exactly these from now on."""
        wanted = {target.key: target for target in targets}
        for key in [key for key, watch in self._watches.items() if wanted.get(key) != watch.target]:
            self._watches.pop(key).cancel()
        for key, target in wanted.items():
            if key not in self._watches:
                self._watches[key] = _Watch(target, self._sink, self._clock, self._ask, self._listen_s)

    def look_around(self) -> None:
        """Asks anew when each target is due."""
        for watch in self._watches.values():
            watch.changed.set()

    async def close(self) -> None:
        """Ends every probe."""
        watches, self._watches = list(self._watches.values()), {}
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*(watch.task for watch in watches), return_exceptions=True)


class _Watch:
    """The probes of one target."""

    def __init__(self, target: Target, sink: ProbeSink, clock: Clock, ask: Ask, listen_s: float):
        self.target = target
        self._clock = clock
        self.changed = asyncio.Event()
        self._sink = sink
        self._ask = ask
        self._listen_s = listen_s
        self._under_way: set[asyncio.Task[None]] = set()
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        self.task.cancel()
        self._end_probes()

    def _end_probes(self) -> None:
        for task in self._under_way:
            if task is not asyncio.current_task():
                task.cancel()

    async def _run(self) -> None:
        while True:
            self.changed.clear()
            wait_s = self._sink.due_at(self.target.key) - self._clock.monotonic()
            if wait_s <= 0 and len(self._under_way) < _OUTSTANDING_MAX:
                self._sink.launched(self.target.key)
                task = asyncio.create_task(self._probe(self._clock.monotonic()))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0.01)):
                    await self.changed.wait()

    async def _probe(self, launched_at: float) -> None:
        key = self.target.key
        asking = asyncio.ensure_future(self._ask(self.target))
        try:
            timeout_s = self._sink.timeout_s(key)
            await asyncio.wait({asking}, timeout=timeout_s)
            if not asking.done():
                self._sink.failed(key, launched_at, True, f"no answer within {timeout_s:.2g} s")
                self.changed.set()
                # Listened to for longer: a late answer still says that the target lives, and how far it is.
                await asyncio.wait({asking}, timeout=max(0.0, self._listen_s - timeout_s))
                if not asking.done() or not isinstance(asking.result(), Good):
                    return
            self._found(asking.result(), launched_at, self._clock.monotonic() - launched_at)
        finally:
            asking.cancel()
            self.changed.set()

    def _found(self, finding: Finding, launched_at: float, round_trip_s: float) -> None:
        match finding:
            case Good():
                self._sink.succeeded(self.target.key, round_trip_s)
                self._end_probes()
            case Bad(silent, reason):
                self._sink.failed(self.target.key, launched_at, silent, reason)
            case Unknown():
                self._sink.unclear(self.target.key)
