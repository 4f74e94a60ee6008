"""When a drill runs by itself, and when none may: a cron line and windows of the week, both in UTC. Pure.

A cron line has five fields (POSIX crontab(5)): minute, hour, day of the month, month, day of the week. When both days
are restricted, either suffices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

MINUTE_S: Final = 60
_DAY_MINUTES: Final = 24 * 60
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


@dataclass(frozen=True, slots=True)
class Cron:
    """The minutes at which a drill is run. Days of the week are counted from Sunday, 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def holds(self, at: float) -> bool:
        """Whether the minute of this moment, in seconds since 1970, is one of them."""
        when = datetime.fromtimestamp(at, UTC)
        day, weekday = when.day in self.days, when.isoweekday() % 7 in self.weekdays
        fits = (day or weekday) if self.either_day else (day and weekday)
        return when.minute in self.minutes and when.hour in self.hours and when.month in self.months and fits


@dataclass(frozen=True, slots=True)
class Window:
    """A part of some days of the week, in minutes from 00:00; the end is not part of it."""

    weekdays: frozenset[int]
    begin: int
    end: int

    def holds(self, at: float) -> bool:
        """Whether this moment, in seconds since 1970, is in it."""
        when = datetime.fromtimestamp(at, UTC)
        return when.isoweekday() % 7 in self.weekdays and self.begin <= when.hour * 60 + when.minute < self.end


def cron(text: str) -> Cron:
    """A cron line. Raises ValueError with a sentence."""
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise ValueError(f"{text!r} has not five fields (minute, hour, day, month, weekday), as in '0 3 * * tue'")
    minutes, hours, days, months, weekdays = (_values(p, *field) for p, field in zip(parts, _FIELDS, strict=True))
    either = not parts[2].startswith("*") and not parts[4].startswith("*")
    return Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)


def window(text: str) -> Window:
    """A window such as `mon-fri 08:00-18:00`, or `22:00-24:00` for every day. Raises ValueError with a sentence."""
    days, _, span = text.strip().rpartition(" ")
    begin, separator, end = span.partition("-")
    if not separator:
        raise ValueError(f"{text!r} is not a window such as 'mon-fri 08:00-18:00'")
    weekdays = frozenset(day % 7 for day in _values(days or "*", *_FIELDS[4]))
    found = Window(weekdays, _minute(begin, text), _minute(end, text))
    if found.begin >= found.end:
        raise ValueError(f"{text!r} ends before it begins: write two windows for one over midnight")
    return found


def blocked_by(windows: Iterable[str], at: float) -> str:
    """The window that this moment is in; empty when it is in none. The windows were checked before."""
    return next((text for text in windows if window(text).holds(at)), "")


def due(schedule: str, last: float, now: float) -> bool:
    """Whether the minute that is now is to be run, and was not before. What was missed is not caught up."""
    minute = now - now % MINUTE_S
    return bool(schedule) and last < minute and cron(schedule).holds(minute)


def _minute(text: str, whole: str) -> int:
    hour, _, minute = text.partition(":")
    if not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2 and int(minute) < 60):
        raise ValueError(f"{whole!r}: {text!r} is not a time such as 08:00")
    found = int(hour) * 60 + int(minute)
    if found > _DAY_MINUTES:
        raise ValueError(f"{whole!r}: {text!r} is later than 24:00")
    return found


def _values(part: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step)):
            raise ValueError(f"{name}: {item!r}: {step!r} is no step")
        begin, dash, end = ("*", "", "") if span == "*" else span.partition("-")
        first = low if begin == "*" else _value(begin, name, low, high)
        last = high if begin == "*" or (slash and not dash) else _value(end, name, low, high) if dash else first
        if last < first:
            raise ValueError(f"{name}: {item!r} ends before it begins")
        found.update(range(first, last + 1, int(step) if slash else 1))
    return frozenset(found)


def _value(text: str, name: str, low: int, high: int) -> int:
    if name == "weekday" and text.lower() in _DAYS:
        return _DAYS.index(text.lower())
    if not (text.isdecimal() and len(text) < 3 and low <= int(text) <= high):
        raise ValueError(f"{name}: {text!r} is not from {low} to {high}")
    return int(text)
