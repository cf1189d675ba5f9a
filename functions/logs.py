"""Logs: JSON, one line per event, with a stable `action` key; readable text when a terminal is attached."""

from __future__ import annotations

import json
import logging
import os
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
        logger_factory=structlog.WriteLoggerFactory(file=Unfailing(2)),  # type: ignore[arg-type]  # a file as far as needed
        cache_logger_on_first_use=True,
    )


class Unfailing:
    """A log that cannot be written stops nobody: lines that a full disk refuses are counted, and the next that gets
    through is preceded by how many were lost. Unbuffered: what is refused is not held back to come twice.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = 0
        self._torn = False

    def write(self, text: str) -> None:
        """Write whole lines."""
        data = text.encode(errors="backslashreplace")
        if self._lost:
            said = {"level": "warning", "action": "logs.lost", "event": "log lines were lost", "lines": self._lost}
            data = (b"\n" if self._torn else b"") + json.dumps(said).encode() + b"\n" + data
        whole = len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._torn = self._torn or len(data) < whole
            self._lost += 1
            return
        self._lost, self._torn = 0, False

    def flush(self) -> None:
        """There is nothing held back."""
