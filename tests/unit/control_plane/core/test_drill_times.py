"""Schedules and blocked windows, in virtual time."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.drill_times import blocked_by, cron, due, window


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("line", "moment", "fits"),
    [
        ("0 3 * * tue", "2026-11-24T03:00:59", True),
        ("0 3 * * 2", "2026-11-23T03:00:00", False),
        ("*/15 8-10 * * *", "2026-11-23T09:45:00", True),
        ("*/15 8-10 * * *", "2026-11-23T11:00:00", False),
        ("0 0 1 * mon", "2026-11-23T00:00:00", True),
        ("0 0 1 * mon", "2026-12-01T00:00:00", True),
        ("0 0 * * 7", "2026-11-22T00:00:00", True),
        ("5/20 * * 1,11 *", "2026-11-22T00:25:00", True),
    ],
)
def test_which_minutes_a_line_means(line: str, moment: str, fits: bool) -> None:
    assert cron(line).holds(at(moment)) is fits


@pytest.mark.parametrize("line", ["", "* * * *", "60 * * * *", "* * * * x", "*/0 * * * *", "5-1 * * * *", "* * 0 * *"])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cron(line)


@pytest.mark.parametrize("text", ["", "mon", "mon 08:00", "mon 18:00-08:00", "abc 08:00-09:00", "08:00-24:01", "8-9"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        window(text)


def test_a_window_blocks_to_its_end_and_no_longer() -> None:
    windows = ["mon-fri 08:00-18:00", "22:00-24:00"]
    assert blocked_by(windows, at("2026-11-23T08:00:00")) == windows[0]
    assert blocked_by(windows, at("2026-11-23T18:00:00")) == ""
    assert blocked_by(windows, at("2026-11-22T12:00:00")) == ""
    assert blocked_by(windows, at("2026-11-22T23:59:59")) == windows[1]


def test_each_minute_is_run_once_and_none_is_caught_up() -> None:
    minute = at("2026-11-24T03:00:00")
    assert due("0 3 * * *", 0.0, minute + 7)
    assert not due("0 3 * * *", minute, minute + 30)
    assert not due("0 3 * * *", 0.0, minute + 60)
    assert not due("", 0.0, minute)


@given(st.text(max_size=30))
def test_no_text_breaks_them(text: str) -> None:
    for read in (cron, window):
        with contextlib.suppress(ValueError):
            read(text)
