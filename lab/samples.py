"""What clients and observers write down while something happens. Times are seconds of the machine's monotonic clock,
which all processes of the machine share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SLOW_S: Final = 1.0
"""An answer that took longer is a slow one."""
_APART_S: Final = 0.5
_COURSE_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a client; `ok` is a whole answer with status 200."""

    at: float
    seconds: float
    ok: bool
    status: int = 200
    error: str = ""
    address: str = ""
    region: str = ""
    version: str = ""
    cache: str = ""

    @property
    def ended(self) -> float:
        """When it was over."""
        return self.at + self.seconds


@dataclass(frozen=True, slots=True)
class Clients:
    """What the clients of one region saw."""

    region: str
    requests: int
    failed: int
    slow: int
    longest_gap_s: float
    """The longest time from a good answer to the next with a failure in between."""


@dataclass(frozen=True, slots=True)
class Poll:
    """One direct question to one DNS server: which addresses it gave at that time; None when it did not answer."""

    at: float
    server: str
    addresses: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something that a part of the fleet said it saw, with the time that it gives."""

    at: float
    kind: str
    text: str


def parse_samples(lines: Iterable[str]) -> list[Sample]:
    """The samples of a client's output, in the order in which the requests began; half a line is left out."""
    samples = []
    for line in lines:
        try:
            samples.append(Sample(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return sorted(samples, key=lambda sample: sample.at)


def clients_of(region: str, samples: Sequence[Sample], since: float) -> Clients:
    """What a client has written down since then, in the order of time; it was served until then."""
    longest_s, good_at, missed = 0.0, since, False
    for sample in samples:
        if not sample.ok:
            missed = True
            continue
        if missed:
            longest_s = max(longest_s, sample.ended - good_at)
        good_at, missed = sample.ended, False
    failed = sum(not sample.ok for sample in samples)
    slow = sum(sample.ok and sample.seconds > SLOW_S for sample in samples)
    return Clients(region, len(samples), failed, slow, round(longest_s, 3))


def course(samples: Sequence[Sample], since: float) -> tuple[tuple[float, int, int], ...]:
    """In the course of time, in seconds since then: how many requests had begun, and how many of those failed."""
    begun = sorted((max(0.0, sample.at - since), sample.ok) for sample in samples)
    apart_s = max(_APART_S, begun[-1][0] / _COURSE_MAX) if begun else _APART_S
    found, requests, failed = [(0.0, 0, 0)], 0, 0
    for index, (after_s, ok) in enumerate(begun):
        if after_s >= found[-1][0] + apart_s:
            found.append((round(after_s, 3), requests, failed))
        requests, failed = requests + 1, failed + (not ok)
        if index == len(begun) - 1:
            found.append((round(after_s + 0.001, 3), requests, failed))
    return tuple(found)
