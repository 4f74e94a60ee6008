"""Server-sent events as they come in (HTML, "Parsing an event stream")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVENT_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `kind` is `message` unless the server named it."""

    kind: str
    data: str
    id: str


class EventParser:
    """Cuts a stream of bytes into events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes. Raises ValueError when one is beyond all measure or no UTF-8."""
        self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > EVENT_BYTES_MAX:
            raise ValueError("an event is too large")
        events = [self._line(line.removesuffix(b"\r").decode()) for line in lines]
        return [event for event in events if event is not None]

    def _line(self, line: str) -> ServerEvent | None:
        if line:
            name, _, value = line.partition(":")
            self._field(name, value.removeprefix(" "))
            return None
        event = ServerEvent(self._kind or "message", "\n".join(self._data), self._id) if self._data else None
        self._kind, self._data = "", []
        return event

    def _field(self, name: str, value: str) -> None:
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
            case _:
                return
