"""The composition root of `locci-dns`: the one file that wires the adapters to the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from fleet.clock import Clock, SystemClock
from fleet.errors import Code, LocciError, invalid
from fleet.identity import IdentityDirectory
from fleet.rpc.link import NodeLink
from fleet.snapshot import SnapshotFile
from locci.v1 import node_pb2
from routing import successor
from routing.adapters import explanation, host_facts, local_socket
from routing.adapters.endpoints import parse_listen
from routing.adapters.feed import Feed
from routing.adapters.geo_database import GeoDatabase
from routing.adapters.handover import Handover, Pairs
from routing.adapters.metrics import DnsCollector, serve_metrics
from routing.adapters.prober import Prober
from routing.adapters.table import RESOURCE_TYPES
from routing.adapters.transfers import Notifier
from routing.adapters.verdict_file import VerdictFile
from routing.core.cadence import Cadence
from routing.core.failover import ChangeRotation, Command, Failover, LookAround
from routing.core.model import RoutingTable, TargetKey
from routing.core.verdict import FailoverPolicy
from routing.engine import Engine
from routing.frontend import Counts, Frontend, explained, hot_of, limiter_of, manners_of
from routing.settings import DnsSettings
from routing.workers import Workers

log = structlog.get_logger()

_GEO_CHECK_S: Final = 5.0
_FEED_CHECK_S: Final = 0.2
_TIME_S: Final = 0.2
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class DnsApp:
    """The running program. `start` returns when it answers; `run` also keeps up with the world until cancelled."""

    def __init__(self, settings: DnsSettings, clock: Clock | None = None, handed: Handover = Handover()):  # noqa: B008
        """`handed` are the sockets at which another process answered so far, or still does."""
        self._handed = handed
        self.settings = settings
        self.ports: list[int] = []
        """The ports that are listened to, for UDP and TCP alike, in the order of the settings."""
        self._clock = clock or SystemClock()
        identity = IdentityDirectory(settings.identity_dir)
        facts = identity.facts()
        _make_directory(settings.state_dir)
        cadence = Cadence(interval_s=settings.probe_interval_s, timeout_s=settings.probe_timeout_s)
        self._verdicts = VerdictFile(settings.state_dir / "verdicts.json")
        self._geo = GeoDatabase(Path(settings.geo_database), settings.state_dir) if settings.geo_database else None
        brain = Failover(facts.node, facts.region, FailoverPolicy(return_s=settings.return_over_s), cadence)
        manners, limiter, hot = manners_of(settings, facts.node), limiter_of(settings), hot_of(settings)
        self.engine = Engine(brain, self._clock, self._verdicts.load(), manners, limiter, hot)
        self.engine.take_time()
        self._prober = Prober(self.engine, self._clock, cadence.timeout_max_s)
        self._feed = Feed(brain, self._clock, settings.state_dir, self._accept)
        self._link = NodeLink(
            role=node_pb2.NODE_ROLE_DNS,
            identity=identity,
            file=SnapshotFile(settings.state_dir / "snapshot"),
            consumer=self._feed,
            resource_types=RESOURCE_TYPES,
            facts=lambda: host_facts.node_facts(settings.state_dir),
            cut_proven_s=cadence.cut_proven_s,
            clock=self._clock,
            rng=random.Random(),
        )
        self._feed.wake = self._link.wake
        self._unsaved = asyncio.Event()
        self._frontend = Frontend(settings, self.engine, self._clock)
        self.transfers = self._frontend.transfers
        self._notifier = Notifier([parse_listen(text, "notify") for text in settings.notify])
        self.workers = Workers(settings, facts.node, self.engine, self._clock)
        self._local: asyncio.Server | None = None
        self.settled = asyncio.Event()
        """All processes answer; nobody else does for them."""

    async def start(self) -> None:
        """Serves the last accepted table from disk. Raises LocciError when it cannot listen."""
        await self._take_table()
        for text in self.settings.listen:
            pair = self._handed.of(0).get(text)
            shared = self.workers.count
            listening = (
                self._frontend.listen(text, shared=shared) if pair is None else self._frontend.adopt(pair, shared)
            )
            self.ports.append(await listening)
        Handover({n: p for n, p in self._handed.slots.items() if not 0 < n < self.workers.count}).close()
        self._local = await local_socket.serve(self.settings.socket, self._on_request)
        revision, compiled = self.engine.table.revision, self.engine.hot is not None
        log.info("dns_serving", ports=self.ports, revision=revision, compiled=compiled, workers=self.workers.count)

    async def bridge(self) -> None:
        """Answers at all that was handed over, from what is on disk, while one process leaves and another comes. It
        probes, and does nothing else. Returns when nobody needs it any more."""
        await self._take_table()
        for pairs in self._handed.slots.values():
            for pair in pairs.values():
                await self._frontend.adopt(pair)
        self._handed.close()
        os.write(self._handed.ready, b"1")
        keeping = [asyncio.create_task(self._watch_time()), asyncio.create_task(self._watch_geo())]
        await successor.gone(self._handed.lifeline)
        await self._frontend.leave()
        for task in keeping:
            task.cancel()
        await self.close()

    async def _take_table(self) -> None:
        if self._geo is not None:
            await asyncio.to_thread(self._geo.refresh)
            if self._geo.lookup is not None:
                self.engine.take_geo(self._geo.lookup)
        self.engine.on_command(self._on_command)
        self.engine.on_command(self._feed.on_command)
        self._feed.accepted(self._link.snapshot)

    async def run(self) -> None:
        """Follows the control plane, the geo database and the health of edges until cancelled; then closes all."""
        runner = None
        try:
            if self.settings.metrics_listen:
                host, port = parse_listen(self.settings.metrics_listen, "metrics_listen")
                collector = DnsCollector(self.engine, self.counts)
                with explained(self.settings.metrics_listen):
                    runner = await serve_metrics(collector, host, port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._link.run())
                tasks.create_task(self._watch_feed())
                tasks.create_task(self._watch_geo())
                tasks.create_task(self._watch_time())
                tasks.create_task(self._save_verdicts())
                tasks.create_task(self.workers.run(self.ports, self._handed))
                tasks.create_task(self._see_off())
        finally:
            await self.close()
            if runner is not None:
                await runner.cleanup()

    def handover(self) -> Handover:
        """All sockets, for another process: new descriptors."""
        mine: dict[int, Pairs] = {0: self._frontend.pairs(self.settings.listen)}
        theirs = {
            n: {text: (os.dup(u), os.dup(t)) for text, (u, t) in p.items()} for n, p in self.workers.pairs().items()
        }
        return Handover(mine | theirs)

    async def leave(self) -> None:
        """Stops to answer, where another process does now."""
        await self._frontend.leave()
        await asyncio.to_thread(self._verdicts.save, self._in_rotation())

    async def _see_off(self) -> None:
        """When all processes answer, who bridged need not any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(successor.READY_S):
                while len(self.workers.processes()) < self.workers.count - 1:
                    await self._clock.sleep(_FEED_CHECK_S)
        await successor.see_off(self._handed)
        self.settled.set()

    async def close(self) -> None:
        """Stops to answer and to probe."""
        self._frontend.close()
        if self._local is not None:
            self._local.close()
        await self._prober.close()
        await self._notifier.close()

    def counts(self) -> Counts:
        """What all processes of the program have counted."""
        return self._frontend.counts() + self.workers.counts()

    def _accept(self, table: RoutingTable) -> None:
        self.engine.take_table(table)
        self.workers.take_snapshot(self._feed.snapshot)
        self._prober.watch(self.engine.targets)
        self._notifier.take(table)
        self._unsaved.set()

    def _on_command(self, command: Command) -> None:
        match command:
            case ChangeRotation():
                self._unsaved.set()
            case LookAround():
                self._prober.look_around()
            case _:
                return

    def _on_request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request.get("command"):
            case "status":
                return explanation.status(self.engine, self._clock) | {"workers": self.workers.processes()}
            case "explain":
                name, address = str(request.get("name", "")), str(request.get("from", ""))
                return explanation.explain(self.engine, self._clock, name, address)
            case other:
                raise invalid("command", f"command: {other!r} is neither status nor explain")

    async def _watch_feed(self) -> None:
        while True:
            self.engine.take_feed(self._link.connected)
            await self._clock.sleep(_FEED_CHECK_S)

    async def _watch_time(self) -> None:
        while True:
            self.engine.take_time()
            await self._clock.sleep(_TIME_S)

    async def _watch_geo(self) -> None:
        while self._geo is not None:
            await self._clock.sleep(_GEO_CHECK_S)
            if await asyncio.to_thread(self._geo.refresh) and self._geo.lookup is not None:
                self.engine.take_geo(self._geo.lookup)

    async def _save_verdicts(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            await asyncio.to_thread(self._verdicts.save, self._in_rotation())

    def _in_rotation(self) -> dict[TargetKey, bool]:
        return {key: state.verdict.in_rotation for key, state in self.engine.brain.targets.items()}


async def serve(settings: DnsSettings, config: Path | None = None, handed: Handover = Handover()) -> list[str]:  # noqa: B008
    """Runs until SIGTERM or SIGINT, and returns nothing; or until SIGHUP, and returns the command to become.

    Raises LocciError when it cannot start.
    """
    for number in handed.descriptors():
        # They had to outlive `execve`; workers get their own only.
        os.set_inheritable(number, False)
    app = DnsApp(settings, handed=handed)
    await app.start()
    running = asyncio.create_task(app.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    renewing = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, renewing.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    command: list[str] = []
    while not command and not running.done():
        asked = asyncio.create_task(renewing.wait())
        await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if renewing.is_set() and not running.done():
            renewing.clear()
            command = await _renew(app, config, running)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    log.info("dns_becomes_its_successor" if command else "dns_stopped")
    return command


async def _renew(app: DnsApp, config: Path | None, running: asyncio.Task[None]) -> list[str]:
    """The command to become, while a bridge answers; nothing when the new program does not get so far."""
    settled = asyncio.create_task(app.settled.wait())
    await asyncio.wait((running, settled), return_when=asyncio.FIRST_COMPLETED)
    settled.cancel()
    if running.done():
        return []
    handed = app.handover()
    try:
        bridge = await successor.bridge(config, handed)
    except LocciError as error:
        handed.close()
        log.error("not reloaded: this process goes on as it is", reason=error.message)
        return []
    if running.done():
        bridge.end()
        return []
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    await app.leave()
    running.cancel()
    return bridge.successor(config, handed)


async def bridge(settings: DnsSettings, handed: Handover) -> None:
    """Answers for another process until that says that it is no longer needed. Raises LocciError."""
    alone = settings.model_copy(update={"workers": 1})
    await DnsApp(alone, handed=handed).bridge()


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.FAILED_PRECONDITION
        raise LocciError(code, "NO_STATE_DIR", f"{path}: cannot be made: {error.strerror}") from error
