"""`locci-edge worker`: one of several processes that serve; `locci-edge run` starts them."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from agent.edge import app
from agent.edge.handover import Handover
from agent.edge.settings import EdgeSettings
from fleet import settings as fleet_settings
from fleet.errors import Code, LocciError
from fleet.telemetry import configure_logging

GC_THRESHOLDS: Final = (20_000, 10, 5)
"""Requests make hardly any cycles, but many objects that live as long as they are cached: looking for cycles as often
as Python does by itself costs hits of the second tier a fifteenth."""
EXIT: Final = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser("locci-edge worker")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--handover", type=Handover.decode, default="")
    given = parser.parse_args(arguments)
    configure_logging("locci-edge")
    gc.collect()
    gc.freeze()  # what was imported is never garbage
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        settings = fleet_settings.load(EdgeSettings, given.config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run(settings, given.number, given.handover))
    except LocciError as error:
        sys.stderr.write(f"locci-edge: {error.message}\n")
        return EXIT.get(error.code, 1)
    except KeyboardInterrupt:
        return 130
    return 0
