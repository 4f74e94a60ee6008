"""Events wait in order, on disk, bounded, until they are recorded."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from agent.outbox import EVENTS_MAX, EVENTS_PER_STATUS_MAX, Outbox
from locci.v1 import agent_pb2, event_pb2


def event(message: str, severity: int = event_pb2.SEVERITY_WARNING) -> event_pb2.Event:
    return event_pb2.Event(type="ReplicaCrashed", severity=severity, subjects=["apps/web"], message=message)  # type: ignore[arg-type]


def told(outbox: Outbox) -> agent_pb2.Status:
    status = agent_pb2.Status()
    outbox.tell(status)
    return status


def messages(outbox: Outbox) -> list[str]:
    outbox.session_began()
    found: list[str] = []
    while outbox.untold:
        found += [e.message for e in told(outbox).events]
    return found


async def saved(outbox: Outbox, path: Path, before: bytes = b"") -> None:
    task = asyncio.create_task(outbox.run())
    async with asyncio.timeout(5):
        while not path.exists() or path.read_bytes() == before:
            await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_status_holds_only_so_many_and_the_rest_follows() -> None:
    outbox = Outbox()
    for number in range(EVENTS_PER_STATUS_MAX + 3):
        outbox.add(event(str(number)))
    first, second = told(outbox), told(outbox)
    assert [e.message for e in first.events] == [str(n) for n in range(EVENTS_PER_STATUS_MAX)]
    assert [e.message for e in second.events] == ["100", "101", "102"]
    assert not outbox.untold
    outbox.recorded(agent_pb2.EventsRecorded(series=outbox.series, through=first.events_through))
    assert messages(outbox) == ["100", "101", "102"]


def test_the_same_again_is_told_once_with_a_count() -> None:
    outbox = Outbox()
    for _ in range(3):
        outbox.add(event("down"))
    outbox.add(event("up"))
    status = told(outbox)
    assert [(e.message, dict(e.details)) for e in status.events] == [("down", {"repeated": "3"}), ("up", {})]
    outbox.add(event("down"))
    assert [dict(e.details) for e in told(outbox).events] == [{}]


def test_when_there_are_too_many_the_least_important_goes_first() -> None:
    outbox = Outbox()
    outbox.add(event("grave", event_pb2.SEVERITY_ERROR))
    for number in range(EVENTS_MAX + 5):
        outbox.add(event(str(number)))
    kept = messages(outbox)
    assert len(kept) == EVENTS_MAX
    assert kept[:2] == ["grave", "6"]


def test_a_word_on_another_series_drops_nothing() -> None:
    outbox = Outbox()
    outbox.add(event("one"))
    outbox.recorded(agent_pb2.EventsRecorded(series="other", through=10))
    assert messages(outbox) == ["one"]


async def test_what_waits_survives_a_restart_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.pb"
    outbox = Outbox(path)
    for message in ("one", "two"):
        outbox.add(event(message))
    outbox.recorded(agent_pb2.EventsRecorded(series=outbox.series, through=1))
    await saved(outbox, path)
    again = Outbox(path)
    assert (again.series, messages(again)) == (outbox.series, ["two"])
    again.add(event("three"))
    again.session_began()
    assert told(again).events_through == 3


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"x" * 100])
def test_a_damaged_file_is_a_fresh_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.pb"
    path.write_bytes(content)
    outbox = Outbox(path)
    outbox.add(event("one"))
    assert messages(outbox) == ["one"]
