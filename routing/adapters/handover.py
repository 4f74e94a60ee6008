"""What one process of `locci-dns` gets from another: bound sockets and a pipe, as numbers of descriptors.

It passes between versions of the program when it is reloaded: what is not known is passed over, and nothing that is
there may come to mean something else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Pair = tuple[int, int]
"""The UDP socket and the TCP socket of an address."""
Pairs = Mapping[str, Pair]
"""By address as it stands in the settings."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Everything that listens: of the first process, and of workers by their number (from 1)."""

    slots: Mapping[int, Pairs] = field(default_factory=dict)
    lifeline: int = -1
    """To who bridges: comes to its end when nobody needs it any more. To a successor: the other end of that."""
    ready: int = -1
    """To who bridges: gets one byte when it answers."""
    bridge: int = 0
    """To a successor: process id of who answers until it does."""

    def of(self, number: int) -> Pairs:
        """The sockets of the first process (0), or of a worker; empty when it has none."""
        return self.slots.get(number, {})

    def descriptors(self) -> Iterator[int]:
        """All numbers."""
        yield from (number for pairs in self.slots.values() for pair in pairs.values() for number in pair)
        yield from (number for number in (self.lifeline, self.ready) if number >= 0)

    def close(self) -> None:
        """Lets go of the sockets."""
        for number in (number for pairs in self.slots.values() for pair in pairs.values() for number in pair):
            os.close(number)

    def encode(self) -> str:
        """As an argument on a command line."""
        slots = {
            str(number): {text: list(pair) for text, pair in pairs.items()} for number, pairs in self.slots.items()
        }
        others = {"lifeline": self.lifeline, "ready": self.ready, "bridge": self.bridge}
        return json.dumps({"slots": slots, **others})

    @classmethod
    def decode(cls, text: str) -> Handover:
        """Raises ValueError."""
        found = json.loads(text)
        slots = {
            int(number): {where: (int(pair[0]), int(pair[1])) for where, pair in pairs.items()}
            for number, pairs in found.get("slots", {}).items()
        }
        numbers = {key: int(found[key]) for key in ("lifeline", "ready", "bridge") if key in found}
        return cls(slots, **numbers)
