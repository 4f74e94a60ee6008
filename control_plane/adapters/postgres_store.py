"""The store on PostgreSQL, shared by several control planes of which one leads.

The lease is a row with an epoch, its end counted by the database's clock. Each transaction of the leader holds that row
against a change while it commits: who was overtaken cannot write, however long it slept.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from control_plane.adapters.schema import leases
from control_plane.adapters.sql_store import SqlStore, telling
from control_plane.ports import LeaseSeen
from fleet.errors import Code, LocciError, invalid

LEASE: Final = "leader"
CHANNEL: Final = "locci_lease"
"""NOTIFY is sent here when the lease changes hands or is given back."""
STATEMENT_S: Final = 10.0
IDLE_IN_TRANSACTION_S: Final = 5.0
"""PostgreSQL ends a transaction whose program says nothing for so long: one that was stopped blocks nobody."""
CONNECT_S: Final = 5.0
_POOL: Final = 4
_ADVICE: Final = "look whether PostgreSQL runs there and lets this user in"


class PostgresStore(SqlStore):
    """A `Store` on a PostgreSQL database; `url` as in `postgresql://user@host/name`.

    With an `epoch` nothing is written but under the lease of that epoch: UNAVAILABLE (LEASE_LOST).
    """

    def __init__(self, url: str, wall: Callable[[], float], epoch: int | None = None):
        self._url = engine_url(url)
        super().__init__(shown_url(url), wall, _ADVICE)
        self._epoch = epoch

    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        engine = _engine(self._url, _POOL)
        return engine, engine

    async def _guard(self, connection: AsyncConnection) -> None:
        if self._epoch is None:
            return
        row = sa.select(leases.c.epoch).where(leases.c.name == LEASE).with_for_update(read=True)
        if await connection.scalar(row) != self._epoch:
            message = "another control plane leads now: nothing was changed; ask again"
            raise LocciError(Code.UNAVAILABLE, "LEASE_LOST", message)


class PostgresLease:
    """The lease of the control planes that share a database, which a `PostgresStore` has opened before."""

    def __init__(self, url: str, holder: str, endpoints: str):
        """`holder` names this process; `endpoints` is what others read in the lease while it holds it."""
        self._url = engine_url(url)
        self._place = shown_url(url)
        self._holder = holder
        self._endpoints = endpoints
        self._epoch = 0
        # Connections of its own: a renewal waits for no transaction.
        self._engine = _engine(self._url, 1)

    async def acquire(self, ttl_s: float) -> LeaseSeen:
        """Takes the lease when nobody holds it, renews it when it is ours; whose it is then. Raises UNAVAILABLE."""
        with telling(f"{self._place} cannot be asked for the lease", _ADVICE):
            async with self._engine.begin() as connection:
                now = await connection.scalar(sa.select(sa.func.clock_timestamp()))
                assert isinstance(now, datetime.datetime)
                given = {"holder": self._holder, "endpoints": self._endpoints}
                first = insert(leases).values(name=LEASE, epoch=0, expire_time=now, **given)
                await connection.execute(first.on_conflict_do_nothing())
                row = (await connection.execute(sa.select(leases).with_for_update())).one()
                # Read under the lock: waiting for it may have taken a while.
                now = await connection.scalar(sa.select(sa.func.clock_timestamp()))
                assert isinstance(now, datetime.datetime)
                mine = row.holder == self._holder and row.epoch == self._epoch != 0
                if not mine and row.expire_time > now:
                    return LeaseSeen(row.holder, row.endpoints, row.epoch, (row.expire_time - now).total_seconds())
                epoch = row.epoch if mine else row.epoch + 1
                until = now + datetime.timedelta(seconds=ttl_s)
                await connection.execute(leases.update().values(epoch=epoch, expire_time=until, **given))
                if not mine:
                    await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, self._holder)))
        self._epoch = epoch
        return LeaseSeen(self._holder, self._endpoints, epoch, ttl_s)

    async def release(self) -> None:
        """Gives the lease back, when it is ours, so that another takes it at once. Raises UNAVAILABLE."""
        mine = sa.and_(leases.c.name == LEASE, leases.c.holder == self._holder, leases.c.epoch == self._epoch)
        with telling(f"the lease cannot be given back to {self._place}", _ADVICE):
            async with self._engine.begin() as connection:
                await connection.execute(leases.update().where(mine).values(expire_time=sa.func.clock_timestamp()))
                await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))

    def forget(self) -> None:
        """What it held it does not hold any more: `acquire` begins anew, under another epoch."""
        self._epoch = 0

    async def listen(self, changed: Callable[[], None]) -> None:
        """Calls `changed` now and when the lease changes hands, until the connection breaks. Raises UNAVAILABLE."""
        broken = asyncio.Event()
        with telling(f"{self._place} cannot be listened to", _ADVICE):
            try:
                url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
                connection = await asyncpg.connect(url, timeout=CONNECT_S)
            except asyncpg.PostgresError as error:
                raise OSError(str(error)) from error
        try:
            connection.add_termination_listener(lambda *_: broken.set())
            await connection.add_listener(CHANNEL, lambda *_: changed())
            changed()
            await broken.wait()
        except asyncpg.InterfaceError:
            return
        finally:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1.0)

    async def close(self) -> None:
        """Lets go of the database."""
        await self._engine.dispose()


def engine_url(url: str) -> sa.URL:
    """The URL of SQLAlchemy's engine. Raises INVALID_ARGUMENT when it names no PostgreSQL database."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername != "postgresql" or not parsed.database:
        raise invalid("database_url", "database_url: write it as postgresql://user:password@host:5432/name")
    return parsed.set(drivername="postgresql+asyncpg")


def shown_url(url: str) -> str:
    """The URL without its password."""
    return engine_url(url).set(drivername="postgresql").render_as_string(hide_password=True)


def _engine(url: sa.URL, size: int) -> AsyncEngine:
    settings: dict[str, Any] = {
        "application_name": "locci-server",
        "statement_timeout": str(int(STATEMENT_S * 1000)),
        "idle_in_transaction_session_timeout": str(int(IDLE_IN_TRANSACTION_S * 1000)),
    }
    return create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=STATEMENT_S,
        pool_pre_ping=True,
        connect_args={"timeout": CONNECT_S, "command_timeout": STATEMENT_S, "server_settings": settings},
    )
