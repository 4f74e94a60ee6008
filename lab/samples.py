"""What clients and observers write down while something happens. Times are seconds of the machine's monotonic clock,
which all processes of the machine share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


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
