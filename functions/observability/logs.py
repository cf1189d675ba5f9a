"""Logs: one line of JSON per event, with a stable `action` key; readable text on a terminal.

Libraries (uvicorn, functions-framework, asyncio, the span exporter) log the same way, with the action `log.<logger>`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import structlog

from ocf.events import subjects, trace_context
from ocf.events.envelope import Event
from ocf.events.errors import InvalidEvent, OcfError
from ocf.events.redaction import Redactor, log_processor

#: Secrets of this process; `execute` adds the keys that it decrypts, and removes them at the end.
SECRETS = Redactor()


def configure(level: str) -> None:
    """Configure structlog and the standard library's logging; logs go to stderr."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_render_exception),
    ]
    last: list[structlog.typing.Processor] = [log_processor(SECRETS), structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        last[-1] = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=LossyLogWriter(2)),  # type: ignore[arg-type]  # a file as far as needed
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(LossyLogWriter(2))
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[_foreign, *shared], processors=[meta, *last])
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Suppress the libraries' own log lines per request.
    root.setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def _foreign(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add a library's logger name as the action, and its exception as a field instead of text over several lines."""
    record: logging.LogRecord = event["_record"]
    event["action"] = f"log.{record.name}"
    if record.exc_info:
        event["exc_info"] = record.exc_info
    return event


def _render_exception(exc_info: structlog.typing.ExcInfo) -> str:
    """Return location and type of an exception and its causes.

    Includes the message only of OSError and OcfError; messages of other exceptions may quote a prompt or an agent.
    """
    parts: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        words = f": {error}" if isinstance(error, OSError | OcfError) else ""
        parts.append(f"{''.join(traceback.format_tb(error.__traceback__))}{kind}{words}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nAfter:\n".join(parts)


def about(subject: str | None, event: Event | None = None) -> dict[str, str]:
    """Return the log fields for an event: `execution_id` or `session_id`, `project_id`, `trace_id`.

    Args:
        subject: Subject of the event's message, if known.
        event: The event, if it could be decoded.
    """
    named: dict[str, str] = {}
    entity = event.extensions.get("correlationid", "") if event else ""
    of_session = event.type.startswith("dev.ocf.session.") if event else False
    with suppress(InvalidEvent):  # an unknown subject: use the event's own attributes
        parsed = subjects.parse(subjects.base_subject(subject or ""))
        named["project_id"], entity = parsed.project, parsed.entity
        of_session = of_session or parsed.verb == "session"
    if entity:
        named["session_id" if of_session else "execution_id"] = entity
    if event and (found := trace_context.trace_id(event.extensions.get("traceparent"))):
        named["trace_id"] = found
    return named


class LossyLogWriter:
    """A log file that never raises: it drops lines that a full disk refuses, and reports their number later.

    The writer is unbuffered, so that a refused line is not written twice. `write` is os.write.
    """

    def __init__(self, descriptor: int, write: Callable[[int, bytes], int] = os.write) -> None:
        self._descriptor = descriptor
        self._write = write
        self._lost = 0
        self._torn = False

    def write(self, text: str) -> None:
        """Write whole lines, after a line with the number of lost lines if there are any."""
        data = text.encode(errors="backslashreplace")
        if self._lost:
            line = {"level": "warning", "action": "logs.lost", "event": "log lines were lost", "lines": self._lost}
            data = (b"\n" if self._torn else b"") + json.dumps(line).encode() + b"\n" + data
        whole = len(data)
        try:
            while data:
                data = data[self._write(self._descriptor, data) :]
        except OSError:
            self._torn = self._torn or len(data) < whole
            self._lost += 1
            return
        self._lost, self._torn = 0, False

    def flush(self) -> None:
        """Do nothing, because the writer is unbuffered."""
