"""One JSON line per request, gathered in memory and written once in a while."""

from __future__ import annotations

import sys
from typing import Final, Protocol

from agent.edge import quick
from agent.edge.core.request_head import RequestHead
from fleet.clock import Clock

LINES_MAX: Final = 50_000
"""Kept between two writes; what comes beyond is counted and dropped: a slow disk slows no request."""


class Lines(Protocol):
    """Lines that wait to be written."""

    @property
    def dropped(self) -> int:
        """How many were too many."""
        ...

    def add(
        self,
        at: float,
        client: bytes,
        quoted: bytes,
        app: str,
        status: int,
        size: int,
        took_s: float,
        cache: bytes,
        request_id: bytes,
    ) -> None:
        """Takes note of a response at a wall time; `quoted` is what `RequestHead.quote` says."""
        ...

    def take(self) -> bytes:
        """What has gathered; it is gone from here."""
        ...


class PythonLines:
    """As `Lines` in the compiled parts."""

    def __init__(self, most: int):
        self.dropped = 0
        self._most = most
        self._lines: list[bytes] = []

    def add(
        self,
        at: float,
        client: bytes,
        quoted: bytes,
        app: str,
        status: int,
        size: int,
        took_s: float,
        cache: bytes,
        request_id: bytes,
    ) -> None:
        """Takes note of a response."""
        if len(self._lines) >= self._most:
            self.dropped += 1
            return
        # All but the target is made of harmless characters: names, numbers, tokens of ours, ids that were looked at.
        self._lines.append(
            b'{"time":%.3f,"client":"%b",%b,"app":"%b","status":%d,"bytes":%d,"duration_s":%.6f,"cache":"%b",'
            b'"request_id":"%b"}\n' % (at, client, quoted, app.encode(), status, size, took_s, cache, request_id)
        )

    def take(self) -> bytes:
        """What has gathered."""
        lines, self._lines = self._lines, []
        return b"".join(lines)


def lines(most: int) -> Lines:
    """The quickest there is."""
    if quick.compiled is None:
        return PythonLines(most)
    made: Lines = quick.compiled.Lines(most)
    return made


class AccessLog:
    """Appends to a file, or to standard output for `-`. A write that fails loses its lines and says so once."""

    __slots__ = ("_path", "_wall", "lines")

    def __init__(self, path: str, clock: Clock):
        self._path = path
        self._wall = clock.wall
        self.lines = lines(LINES_MAX)

    @property
    def dropped(self) -> int:
        """Lines that were too many between two writes."""
        return self.lines.dropped

    def record(
        self,
        client: bytes,
        head: RequestHead,
        status: int,
        size: int,
        took_s: float,
        cache: bytes,
        request_id: bytes,
        app: str,
    ) -> None:
        """Takes note of one response."""
        quoted = head.quoted or head.quote()
        self.lines.add(self._wall(), client, quoted, app, status, size, took_s, cache, request_id)

    def hit(self, client: bytes, head: RequestHead, size: int, request_id: bytes) -> None:
        """Takes note of a hit that was answered at once."""
        self.record(client, head, 200, size, 0.0, b"locci; hit", request_id, "")

    def take(self) -> bytes:
        """The lines that have gathered; they are gone from here."""
        return self.lines.take()

    def write(self, text: bytes) -> None:
        """Writes lines; may be called in a thread. Raises OSError."""
        if not text:
            return
        if self._path == "-":
            sys.stdout.write(text.decode())
            sys.stdout.flush()
            return
        with open(self._path, "ab") as file:
            file.write(text)
