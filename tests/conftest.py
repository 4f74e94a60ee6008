"""What all tests share: an end on request still runs the fixtures' ends, so that no lab is left behind."""

from __future__ import annotations

import signal
from types import FrameType


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _interrupted)
