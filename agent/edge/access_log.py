"""One JSON line per request, gathered in memory and written once in a while."""

from __future__ import annotations

import json
import sys
from typing import Final

from agent.edge.core.request_head import RequestHead
from fleet.clock import Clock

LINES_MAX: Final = 50_000
"""Kept between two writes; what comes beyond is counted and dropped: a slow disk slows no request."""
TEXTS_MAX: Final = 8192
QUOTED_BYTES_MAX: Final = 256
Line = tuple[float, str, bytes, int, int, float, bytes]
"""Time, what requests alike have in common, what the cache did, status, bytes of the body, duration, id."""


def text_of(client: bytes, head: RequestHead, app: str) -> str:
    """What all alike requests of a client have in their lines."""
    # All but the target is made of harmless characters: names, numbers, tokens of ours, ids that were looked at.
    return (
        f'"client":"{client.decode()}","method":"{head.method.decode()}","host":"{head.host.decode()}",'
        f'"target":{json.dumps(head.target.decode("latin-1"))},"app":"{app}"'
    )


class AccessLog:
    """Appends to a file, or to standard output for `-`. A write that fails loses its lines and says so once."""

    def __init__(self, path: str, clock: Clock):
        self._path = path
        self._wall = clock.wall
        self._lines: list[Line] = []
        self._texts: dict[tuple[bytes, bytes, bytes, bytes, str], str] = {}
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
        key = (client, head.method, head.host, head.target, app)
        text = self._texts.get(key)
        if text is None:
            text = text_of(client, head, app)
            if len(self._texts) >= TEXTS_MAX:
                self._texts.clear()
            if len(head.target) <= QUOTED_BYTES_MAX:
                self._texts[key] = text
        self.add(text, cache, status, size, took_s, request_id)

    def hit(self, client: bytes, head: RequestHead, size: int, request_id: bytes) -> None:
        """Takes note of a hit that was answered at once."""
        self.record(client, head, 200, size, 0.0, b"locci; hit", request_id, "")

    def add(self, text: str, cache: bytes, status: int, size: int, took_s: float, request_id: bytes) -> None:
        """As `record`, for who keeps the text of `text_of`."""
        if len(self._lines) < LINES_MAX:
            self._lines.append((self._wall(), text, cache, status, size, took_s, request_id))
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
                f'{{"time":{at:.3f},{what},"status":{status},"bytes":{size},"duration_s":{took_s:.6f},'
                f'"cache":"{cache.decode()}","request_id":"{request_id.decode()}"}}\n'
                for at, what, cache, status, size, took_s, request_id in lines
            ]
        )
        if self._path == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)
