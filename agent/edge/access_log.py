"""One JSON line per request, gathered in memory and written once in a while."""

from __future__ import annotations

import functools
import json
import sys
from typing import Final

from agent.edge.core.request_head import RequestHead
from fleet.clock import Clock

LINES_MAX: Final = 50_000
"""Kept between two writes; what comes beyond is counted and dropped: a slow disk slows no request."""
HITS_MAX: Final = 8192
QUOTED_BYTES_MAX: Final = 256
Line = tuple[float, str, bytes, str]
"""Time, what stands in front of the request's id, the id, what stands behind it."""


def _quoted(target: bytes) -> str:
    return json.dumps(target.decode("latin-1"))


_quoted_before = functools.lru_cache(4096)(_quoted)


class AccessLog:
    """Appends to a file, or to standard output for `-`. A write that fails loses its lines and says so once."""

    def __init__(self, path: str, clock: Clock):
        self._path = path
        self._wall = clock.wall
        self._lines: list[Line] = []
        self._hits: dict[tuple[bytes, bytes, bytes, int], str] = {}
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
        # All but the target is made of harmless characters: names, numbers, tokens of ours, ids that were looked at.
        target = head.target
        quoted = _quoted_before(target) if len(target) <= QUOTED_BYTES_MAX else _quoted(target)
        self._keep(
            f'"client":"{client.decode()}","method":"{head.method.decode()}","host":"{head.host.decode()}",'
            f'"target":{quoted},"status":{status},"bytes":{size},"duration_s":{took_s:.6f},"cache":"{cache.decode()}"',
            request_id,
            app,
        )

    def hit(self, client: bytes, head: RequestHead, size: int, request_id: bytes) -> None:
        """Takes note of a hit that was answered at once: all alike have the same line, but for time and id."""
        key = (client, head.host, head.target, size)
        known = self._hits.get(key)
        if known is not None:
            if len(self._lines) < LINES_MAX:
                self._lines.append((self._wall(), known, request_id, ""))
            else:
                self.dropped += 1
            return
        self.record(client, head, 200, size, 0.0, b"locci; hit", request_id, "")
        if len(self._hits) >= HITS_MAX:
            self._hits.clear()
        if len(self._lines) < LINES_MAX and len(head.target) <= QUOTED_BYTES_MAX:
            self._hits[key] = self._lines[-1][1]

    def _keep(self, text: str, request_id: bytes, app: str) -> None:
        if len(self._lines) < LINES_MAX:
            self._lines.append((self._wall(), text, request_id, app))
        else:
            self.dropped += 1

    def take(self) -> list[Line]:
        """What has gathered; it is gone from here."""
        lines, self._lines = self._lines, []
        return lines

    def write(self, lines: list[Line]) -> None:
        """Writes lines; may be called in a thread. Raises OSError."""
        if not lines:
            return
        text = "".join(
            [
                f'{{"time":{at:.3f},{what},"request_id":"{request_id.decode()}","app":"{app}"}}\n'
                for at, what, request_id, app in lines
            ]
        )
        if self._path == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)
