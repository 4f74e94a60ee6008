"""HTTP dates (RFC 9110 section 5.6.7)."""

from __future__ import annotations

import datetime
import re
from typing import Final

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_IMF: Final = re.compile(r"(?:\w{3}), (\d{2}) (\w{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT", re.ASCII | re.I)
_RFC850: Final = re.compile(r"(?:\w{6,9}), (\d{2})-(\w{3})-(\d{2}) (\d{2}):(\d{2}):(\d{2}) GMT", re.ASCII | re.I)
_ASCTIME: Final = re.compile(r"(?:\w{3}) (\w{3}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})", re.ASCII | re.I)


def parse(value: bytes, now: float) -> int | None:
    """Seconds since 1970 of a date in one of the three formats; None when it is none.

    `now` resolves years of two digits: one that would be more than 50 years ahead is in the past.
    """
    text = value.decode("latin-1").strip()
    if match := _IMF.fullmatch(text):
        day, month, year, hour, minute, second = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, short, hour, minute, second = match.groups()
        this = datetime.datetime.fromtimestamp(now, datetime.UTC).year
        full = this - this % 100 + int(short)
        year = str(full - 100 if full > this + 50 else full)
    elif match := _ASCTIME.fullmatch(text):
        month, day, hour, minute, second, year = match.groups()
    else:
        return None
    if month.title() not in _MONTHS:
        return None
    try:
        moment = datetime.datetime(
            int(year),
            _MONTHS.index(month.title()) + 1,
            int(day),
            int(hour),
            int(minute),
            min(int(second), 59),
            tzinfo=datetime.UTC,
        )
    except ValueError:
        return None
    return int(moment.timestamp())


def render(seconds: float) -> bytes:
    """IMF-fixdate of seconds since 1970."""
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    return f"{day}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT".encode()
