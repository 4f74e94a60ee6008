"""One JSON line per request, gathered in memory and written once in a while."""

from __future__ import annotations

import json
import sys
from typing import Final

from agent.edge.core.request_head import RequestHead
from fleet.clock import Clock

LINES_MAX: Final = 50_000
"""Kept between two writes; what comes beyond is counted and dropped: a slow disk slows no request."""


class AccessLog:
    """Appends to a file, or to standard output for `-`. A write that fails loses its lines and says so once."""

    def __init__(self, path: str, clock: Clock):
        self._path = path
        self._wall = clock.wall
        self._lines: list[str] = []
        self.dropped = 0

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
        if len(self._lines) >= LINES_MAX:
            self.dropped += 1
            return
        # Client, method and host are made of harmless characters; the rest is escaped.
        self._lines.append(
            f'{{"time":{self._wall():.3f},"client":"{client.decode()}","method":"{head.method.decode()}",'
            f'"host":"{head.host.decode()}","target":{json.dumps(head.target.decode("latin-1"))},"status":{status},'
            f'"bytes":{size},"duration_s":{took_s:.6f},"cache":{json.dumps(cache.decode("latin-1"))},'
            f'"request_id":{json.dumps(request_id.decode("latin-1"))},"app":"{app}"}}\n'
        )

    def take(self) -> list[str]:
        """What has gathered; it is gone from here."""
        lines, self._lines = self._lines, []
        return lines

    def write(self, lines: list[str]) -> None:
        """Writes lines; may be called in a thread. Raises OSError."""
        if not lines:
            return
        if self._path == "-":
            sys.stdout.write("".join(lines))
            sys.stdout.flush()
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(lines))
