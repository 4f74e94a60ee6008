"""What every store promises: the same suite over the fake and the real one."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.adapters.postgres_store import PostgresLease, PostgresStore
from control_plane.adapters.sqlite_store import SqliteStore
from control_plane.ports import Delete, EventQuery, Put, Store, Transaction
from fleet.errors import LocciError
from locci.v1 import event_pb2
from tests.fakes.postgres import Postgres, postgres
from tests.fakes.store import MemoryStore


def wall() -> float:
    return 1_750_000_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Not below pytest's own directory: that is only for the user who runs the tests.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "postgres") as running:
            yield running


def fresh(server: Postgres) -> str:
    """The URL of an empty database."""
    return server.create(f"d{uuid.uuid4().hex}")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: Any, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore(wall)
        case "sqlite":
            made = SqliteStore(tmp_path / "store.db", wall)
        case _:
            made = PostgresStore(fresh(request.getfixturevalue("server")), wall)
    await made.open()
    yield made
    await made.close()


def put(name: str, body: bytes = b"x", expected: int | None = None) -> Transaction:
    return Transaction([Put("things", name, body, expected)])


def event(kind: str, *subjects: str) -> event_pb2.Event:
    return event_pb2.Event(type=kind, subjects=subjects)


async def test_one_transaction_is_one_revision(store: Store) -> None:
    assert await store.revision() == 0
    first = await store.commit(Transaction([Put("things", "a", b"1"), Put("things", "b", b"2")]))
    second = await store.commit(put("a", b"3"))
    assert (first.revision, second.revision, await store.revision()) == (1, 2, 2)
    assert [(o.name, o.revision, o.body) for o in await store.load()] == [("a", 2, b"3"), ("b", 1, b"2")]


async def test_events_alone_change_no_revision(store: Store) -> None:
    committed = await store.commit(Transaction(events=[event("Happened")]))
    assert committed.revision == 0
    assert committed.events[0].name == "events/1"
    assert committed.events[0].time.seconds == 1_750_000_000


async def test_a_broken_expectation_changes_nothing(store: Store) -> None:
    await store.commit(put("a"))
    for bad in (put("a", expected=0), put("a", expected=7), put("b", expected=1)):
        transaction = Transaction([Put("things", "c", b"c"), *bad.changes], [event("Never")])
        with pytest.raises(LocciError) as error:
            await store.commit(transaction)
        assert error.value.reason == "CONFLICT"
    assert [o.name for o in await store.load()] == ["a"]
    assert await store.revision() == 1
    assert await store.events(EventQuery(limit=10)) == []
    await store.commit(put("a", b"y", expected=1))


async def test_what_is_deleted_is_gone(store: Store) -> None:
    await store.commit(put("a"))
    await store.commit(Transaction([Delete("things", "a", 1), Delete("things", "never", None)]))
    assert await store.load() == []
    assert await store.revision() == 2


async def test_events_are_found_by_subject_type_and_place(store: Store) -> None:
    for number in range(6):
        await store.commit(Transaction(events=[event("Odd" if number % 2 else "Even", f"n/{number % 3}", "all")]))

    async def names(**query: Any) -> list[str]:
        return [e.name.partition("/")[2] for e in await store.events(EventQuery(**{"limit": 10, **query}))]

    assert await names() == ["6", "5", "4", "3", "2", "1"]
    assert await names(limit=2, ascending=True) == ["1", "2"]
    assert await names(subject="n/1") == ["5", "2"]
    assert await names(type="Even") == ["5", "3", "1"]
    assert await names(after=2, before=5) == ["4", "3"]


async def test_transactions_at_once_all_count(store: Store) -> None:
    await asyncio.gather(*(store.commit(put(f"n{number}")) for number in range(20)))
    assert await store.revision() == 20
    assert {o.revision for o in await store.load()} == set(range(1, 21))


async def test_a_commit_whose_caller_went_away_ends_before_the_store_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for number in range(10):
        store = SqliteStore(path, wall)
        await store.open()
        commit = asyncio.create_task(store.commit(put(f"n{number}")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        commit.cancel()
        await store.close()
    store = SqliteStore(path, wall)
    await store.open()
    assert await store.revision() == len(await store.load()) == 10
    await store.close()


async def test_sqlite_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = SqliteStore(path, wall)
    await first.open()
    await first.commit(Transaction([Put("things", "a", b"1")], [event("Happened")]))
    await first.close()
    second = SqliteStore(path, wall)
    await second.open()
    committed = await second.commit(Transaction([Put("things", "b", b"2")], [event("Again")]))
    assert committed.revision == 2
    assert committed.events[0].name == "events/2"
    await second.close()
    assert path.stat().st_mode & 0o077 == 0


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path, wall)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    connection.close()
    with pytest.raises(LocciError) as error:
        await SqliteStore(path, wall).open()
    assert error.value.reason == "SCHEMA_TOO_NEW"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LocciError) as error:
        await SqliteStore(path, wall).open()
    assert error.value.reason == "STORE_UNUSABLE"


async def test_a_database_of_an_older_version_loses_nothing(tmp_path: Path) -> None:
    for dump in sorted(Path(__file__).parents[1].glob("data/store-*.sql")):
        path = tmp_path / f"{dump.stem}.db"
        with sqlite3.connect(path) as connection:
            connection.executescript(dump.read_text())
            objects = connection.execute(
                "SELECT kind, name, revision, body FROM objects ORDER BY kind, name"
            ).fetchall()
            (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
            (revision,) = connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()
        connection.close()
        assert len(objects) > 5
        for _ in range(2):
            store = SqliteStore(path, wall)
            await store.open()
            assert [(o.kind, o.name, o.revision, o.body) for o in await store.load()] == objects
            assert len(await store.events(EventQuery(limit=1000))) == events
            assert await store.revision() == revision
            await store.close()
        store = SqliteStore(path, wall)
        await store.open()
        assert (await store.commit(put("a"))).revision == revision + 1
        await store.close()


async def test_a_migration_that_breaks_off_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parents[1] / "data/store-0.1.0.sql").read_text())
        # In the way of the second migration, after the note of the first.
        connection.execute("CREATE TABLE leases (odd INTEGER)")
    connection.close()
    with pytest.raises(LocciError) as error:
        await SqliteStore(path, wall).open()
    assert error.value.reason == "STORE_UNUSABLE"
    with sqlite3.connect(path) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        connection.execute("DROP TABLE leases")
    connection.close()
    assert "alembic_version" not in tables
    store = SqliteStore(path, wall)
    await store.open()
    await store.close()


async def test_stores_that_open_at_once_migrate_once(server: Postgres) -> None:
    url = fresh(server)
    stores = [PostgresStore(url, wall) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.commit(put(f"n{n}")) for n, store in enumerate(stores)))
    assert [await store.revision() for store in stores] == [4] * 4
    for store in stores:
        await store.close()


async def test_one_holds_the_lease_and_only_it_writes(server: Postgres) -> None:
    url = fresh(server)
    opened = PostgresStore(url, wall)
    await opened.open()
    a, b = (PostgresLease(url, name, f"at {name}") for name in ("a", "b"))
    heard = asyncio.Event()
    listening = asyncio.create_task(b.listen(heard.set))
    got = await a.acquire(60.0)
    assert (got.holder, got.epoch) == ("a", 1)
    assert (await a.acquire(60.0)).epoch == 1
    other = await b.acquire(60.0)
    assert (other.holder, other.endpoints, other.epoch) == ("a", "at a", 1)
    assert 0 < other.remaining_s <= 60.0
    first = PostgresStore(url, wall, got.epoch)
    await first.open()
    await first.commit(put("a"))

    # It ends while its holder sleeps: who takes it writes, and the sleeper does not any more.
    await a.acquire(0.0)
    taken = await b.acquire(60.0)
    assert (taken.holder, taken.epoch) == ("b", 2)
    second = PostgresStore(url, wall, taken.epoch)
    await second.open()
    with pytest.raises(LocciError) as error:
        await first.commit(put("b"))
    assert error.value.reason == "LEASE_LOST"
    assert (await a.acquire(60.0)).holder == "b"
    await a.release()
    assert (await a.acquire(60.0)).holder == "b", "only its holder gives it back"
    await second.commit(put("c"))
    assert [o.name for o in await first.load()] == ["a", "c"]

    heard.clear()
    await b.release()
    async with asyncio.timeout(30):
        await heard.wait()
    assert (await a.acquire(60.0)).epoch == 3
    listening.cancel()
    for closed in (first, second, opened, a, b):
        await closed.close()


async def test_a_database_that_goes_is_said_and_found_again(server: Postgres) -> None:
    store = PostgresStore(fresh(server), wall)
    await store.open()
    await store.commit(put("a"))
    server.stop()
    lease = PostgresLease(server.url(), "a", "")
    for call in (store.commit(put("b")), store.load(), lease.acquire(5.0), lease.listen(lambda: None)):
        with pytest.raises(LocciError) as error:
            await call
        assert error.value.reason == "STORE_UNAVAILABLE"
    with pytest.raises(LocciError) as error:
        await PostgresStore(server.url(), wall).open()
    assert error.value.reason == "STORE_UNUSABLE"
    server.start()
    await store.commit(put("b"))
    assert [o.name for o in await store.load()] == ["a", "b"]
    await store.close()
    await lease.close()


def test_a_url_that_is_none_is_refused() -> None:
    for bad in ("no url", "mysql://a@b/c", "postgresql://host"):
        with pytest.raises(LocciError) as error:
            PostgresStore(bad, wall)
        assert "postgresql://user:password@host:5432/name" in error.value.message
