"""Limits on the rates of clients and of apps, counted together with the other edges of the region through its Redis.

A request waits for nobody: it is counted here, and several times a second the edges add up what they have let through.
So together they may let through what comes in such an interval too much. Without Redis each worker counts for itself.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Iterator
from typing import Any, Final

from agent.edge.core import resp
from agent.edge.core.rate_limit import Addition, RateLimit, client_key
from agent.edge.core.routing import Table
from agent.edge.counters import Counters
from agent.edge.redis_region import Connect, Link
from agent.edge.redis_tier import Breaker
from agent.edge.settings import EdgeSettings
from fleet.clock import Clock

PREFIX: Final = b"locci:r1:"
SHARE_S: Final = 0.2
SWEEP_TURNS: Final = 25
KEYS_AT_ONCE: Final = 2000
TIMEOUT_S: Final = 0.5


class Rates:
    """The limits of the settings, which hold for all apps, and those of apps that have some of their own."""

    def __init__(
        self, settings: EdgeSettings, connect: Connect | None, clock: Clock, rng: random.Random, counters: Counters
    ):
        window_s = settings.rate_window_s
        self.clients = RateLimit(settings.client_rate, window_s) if settings.client_rate else None
        self.apps = RateLimit(settings.app_rate, window_s) if settings.app_rate else None
        self._own: dict[str, tuple[RateLimit | None, RateLimit | None]] = {}
        """By app: of each client, and of all."""
        self._clock = clock
        self._wall = clock.wall
        self._rng = rng
        self._counters = counters
        self._breaker = Breaker()
        self._link = connect(TIMEOUT_S) if connect is not None else None

    def adopt(self, table: Table) -> None:
        """Goes by what the apps of a table want; what was counted for a limit that stays is kept."""
        before, self._own = self._own, {}
        for route in table.routes:
            wanted, known = route.http.limits, before.get(route.app, (None, None))
            if wanted.client_rate or wanted.rate:
                self._own[route.app] = (
                    _kept(known[0], wanted.client_rate, wanted.window_s),
                    _kept(known[1], wanted.rate, wanted.window_s),
                )

    @property
    def active(self) -> bool:
        """Whether anything is limited."""
        return self.clients is not None or self.apps is not None or bool(self._own)

    def wait_s(self, address: bytes, host: bytes, table: Table) -> float:
        """0 when the request may go on; otherwise when to come again."""
        now = self._wall()
        wait = self.clients.take(client_key(address), now) if self.clients is not None else 0.0
        if not wait and (self.apps is not None or self._own):
            route = table.find(host)
            if route is not None:
                wait = self._wait_for_app(address, route.app, now)
        self._counters.limited_total += wait > 0
        return wait

    def _wait_for_app(self, address: bytes, app: str, now: float) -> float:
        name = app.encode()
        wait = self.apps.take(name, now) if self.apps is not None else 0.0
        of_clients, of_all = self._own.get(app, (None, None))
        if not wait and of_clients is not None:
            wait = of_clients.take(client_key(address), now)
        if not wait and of_all is not None:
            wait = of_all.take(name, now)
        return wait

    def _all(self) -> Iterator[tuple[bytes, RateLimit]]:
        """What the counts of each limit are called, and the limit. Windows of another length are counted apart."""
        for kind, limit in ((b"c:", self.clients), (b"a:", self.apps)):
            if limit is not None:
                yield kind, limit
        for app, (of_clients, of_all) in list(self._own.items()):
            for letter, limit in ((b"c", of_clients), (b"a", of_all)):
                if limit is not None:
                    yield b"%b:%b:%g:" % (letter, app.encode(), limit.window_s), limit

    async def run(self) -> None:
        """Adds up with the others until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(SHARE_S)
            turn += 1
            for kind, limit in self._all():
                if self._link is not None and self._breaker.allows(self._clock.monotonic()):
                    await self._share(self._link, kind, limit)
                if turn % SWEEP_TURNS == 0:
                    limit.sweep(self._wall())

    async def _share(self, link: Link, kind: bytes, limit: RateLimit) -> None:
        additions = limit.additions(KEYS_AT_ONCE)
        if not additions:
            return
        keep_s = b"%d" % (int(3 * limit.window_s) + 1)
        left, failed = len(additions), False
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def counted(addition: Addition, reply: Any) -> None:
            nonlocal left, failed
            left -= 1
            if isinstance(reply, int):
                limit.learn(addition.key, addition.window, reply)
            elif isinstance(reply, Exception):
                failed = True
            if not left and not over.done():
                over.set_result(None)

        for addition in additions:
            name = b"%b%b%d:%b" % (PREFIX, kind, addition.window, addition.key)
            link.ask(resp.command(b"INCRBY", name, b"%d" % addition.count), functools.partial(counted, addition))
            link.ask(resp.command(b"EXPIRE", name, keep_s), _nobody)
        await over  # each is answered in time, if only by a failure
        if failed:
            self._counters.tier_errors_total += 1
            self._breaker.failed(self._clock.monotonic(), self._rng.random())
        else:
            self._breaker.succeeded()

    async def close(self) -> None:
        """Lets go of Redis."""
        if self._link is not None:
            await self._link.close()


def _kept(known: RateLimit | None, per_s: float, window_s: float) -> RateLimit | None:
    if not per_s:
        return None
    same = known is not None and (known.per_s, known.window_s) == (per_s, window_s)
    return known if same else RateLimit(per_s, window_s)


def _nobody(_: Any) -> None:
    """Nobody waits for this answer."""
