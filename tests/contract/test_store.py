"""What every store promises: the same suite over the fake and the real one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.adapters.sql_store import SqlStore
from control_plane.ports import Delete, EventQuery, Put, Store, Transaction
from fleet.errors import LocciError
from locci.v1 import event_pb2
from tests.fakes.store import MemoryStore


def wall() -> float:
    return 1_750_000_000.0


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: Any, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore(wall) if request.param == "memory" else SqlStore(tmp_path / "store.db", wall)
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


async def test_sqlite_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = SqlStore(path, wall)
    await first.open()
    await first.commit(Transaction([Put("things", "a", b"1")], [event("Happened")]))
    await first.close()
    second = SqlStore(path, wall)
    await second.open()
    committed = await second.commit(Transaction([Put("things", "b", b"2")], [event("Again")]))
    assert committed.revision == 2
    assert committed.events[0].name == "events/2"
    await second.close()
    assert path.stat().st_mode & 0o077 == 0


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqlStore(path, wall)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    connection.close()
    with pytest.raises(LocciError) as error:
        await SqlStore(path, wall).open()
    assert error.value.reason == "SCHEMA_TOO_NEW"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LocciError) as error:
        await SqlStore(path, wall).open()
    assert error.value.reason == "STORE_UNUSABLE"
