"""What a person sees while the lab works: one line per thing done, each with its time."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO


class Progress:
    """Lines on standard error, each with the seconds since the beginning. Threads may share one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._began = time.monotonic()
        self._stream = stream if stream is not None else sys.stderr
        self._lock = threading.Lock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Writes one line."""
        with self._lock:
            self._stream.write(f"{self.elapsed_s:7.2f} s  {text}\n")
            self._stream.flush()
