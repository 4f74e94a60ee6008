"""Structured logs: one line per event, keys as below, to standard error."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import structlog

REGION: Final = "region"
NODE: Final = "node"
APP: Final = "app"
REPLICA: Final = "replica"
REVISION: Final = "revision"
REASON: Final = "reason"


def configure_logging(program: str, *, json_lines: bool | None = None, level: str = "info") -> None:
    """Makes this process log to standard error: JSON lines, or coloured text on a terminal."""
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    colours = not as_json and "NO_COLOR" not in os.environ
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=colours),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
