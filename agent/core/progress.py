"""How far a pull is, from what the engine says of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_DOWNLOADING: Final = "Downloading"
_HERE: Final = ("Download complete", "Pull complete", "Already exists", "Extracting", "Verifying Checksum")


class Progress:
    """Takes the engine's messages (Docker Engine API, `POST /images/create`); garbage is passed over."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._waiting: set[str] = set()

    def take(self, message: Mapping[str, Any]) -> None:
        """A message of the pull."""
        layer, status = message.get("id"), message.get("status")
        if not isinstance(layer, str) or not isinstance(status, str):
            return
        if status == _DOWNLOADING:
            detail = message.get("progressDetail")
            current, total = (detail.get("current"), detail.get("total")) if isinstance(detail, dict) else (0, 0)
            if isinstance(current, int) and isinstance(total, int) and 0 <= current <= total:
                self._done[layer], self._total[layer] = current, total
            self._waiting.add(layer)
        elif status.startswith(_HERE):
            self._done[layer] = self._total.get(layer, 0)
            self._waiting.discard(layer)

    def __str__(self) -> str:
        """As in `12.0 of 40.0 MiB`; empty while nothing is known."""
        total = sum(self._total.values())
        if not total:
            return ""
        if not self._waiting:
            return f"{total / 2**20:.1f} MiB are here and being unpacked"
        return f"{sum(self._done.values()) / 2**20:.1f} of {total / 2**20:.1f} MiB"
