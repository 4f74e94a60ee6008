"""What one process of the edge gets from another: listening sockets and pipes, as numbers of descriptors.

It passes between versions of the program when it is reloaded: what is not known is passed over, and nothing that is
there may come to mean something else.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.edge.listening import bind, listen


@dataclass(frozen=True, slots=True)
class Handover:
    """For a worker: without anything it opens its sockets by itself, and lives until it is told to end."""

    sockets: Mapping[str, int] = field(default_factory=dict)
    """By address as it stands in the settings."""
    ready: int = -1
    """Gets one byte when the worker serves."""
    lifeline: int = -1
    """Comes to its end when the supervisor does, however that happened."""
    _left: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._left.update(self.sockets)

    def encode(self) -> str:
        """As an argument on a command line."""
        return json.dumps({"sockets": dict(self.sockets), "ready": self.ready, "lifeline": self.lifeline})

    @classmethod
    def decode(cls, text: str) -> Handover:
        """Raises ValueError."""
        found = json.loads(text or "{}")
        return cls(dict(found.get("sockets", {})), int(found.get("ready", -1)), int(found.get("lifeline", -1)))

    def listen(self, text: str) -> socket.socket:
        """A socket that listens at the address: the one that was handed over, else a new one. Raises LocciError."""
        descriptor = self._left.get(text)
        if descriptor is None:
            return listen(bind(text), text)
        sock = socket.socket(fileno=socket.dup(descriptor))
        sock.setblocking(False)
        return listen(sock, text)

    def let_go(self) -> None:
        """This process has no more use for the sockets: where nobody else has one, connections are refused."""
        for text in list(self._left):
            os.close(self._left.pop(text))


ALONE = Handover()


@dataclass(frozen=True, slots=True)
class Adoption:
    """For a supervisor that takes another's place in the same process."""

    workers: Mapping[int, int] = field(default_factory=dict)
    """Process ids by the worker's number."""
    leaving: tuple[int, ...] = ()
    """Process ids of workers that end what they have."""
    sockets: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """By the worker's number and address."""
    lifeline: tuple[int, int] = (-1, -1)
    """Both ends of the pipe."""

    def encode(self) -> str:
        """As an argument on a command line."""
        return json.dumps(
            {
                "workers": dict(self.workers),
                "leaving": self.leaving,
                "sockets": {number: dict(sockets) for number, sockets in self.sockets.items()},
                "lifeline": self.lifeline,
            }
        )

    @classmethod
    def decode(cls, text: str) -> Adoption:
        """Raises ValueError."""
        found = json.loads(text)
        ends = found.get("lifeline", [-1, -1])
        return cls(
            {int(number): int(pid) for number, pid in found.get("workers", {}).items()},
            tuple(int(pid) for pid in found.get("leaving", [])),
            {int(number): dict(sockets) for number, sockets in found.get("sockets", {}).items()},
            (int(ends[0]), int(ends[1])),
        )
