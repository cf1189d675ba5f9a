"""Logs: JSON, one line per event, with a stable `action` key; readable text when a terminal is attached."""

from __future__ import annotations

import logging
import sys

import structlog

from events.redact import Redactor, log_processor

#: Secrets of whatever runs in this process; `execute` adds the keys it opens, and removes them at the end.
SECRETS = Redactor()


def configure(level: str) -> None:
    """Set up structlog for this process. Logs go to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        log_processor(SECRETS),
    ]
    last: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        last = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
