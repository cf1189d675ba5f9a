"""A function of a process: a handler with the dependencies that it names, from start to stop."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event, decode
from ocf.events.errors import WAITING, Busy, Drop, InvalidEvent, OcfError, Retry
from ocf.functions.observability import logs, tracing
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.health import Check

log = structlog.get_logger()

#: Takes an event, and by keyword the dependencies that it uses; a name is that of the attribute of `Dependencies`.
Handler = Callable[..., Awaitable[None]]


def bind(handler: Handler, deps: Dependencies) -> Callable[[Event], Awaitable[None]]:
    """Return `handler` with its keyword-only arguments taken from `deps`."""
    parameters = inspect.signature(handler).parameters.values()
    names = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    return functools.partial(handler, **{name: getattr(deps, name) for name in names})


class Function:
    """One function. `respond` answers 503 before `start` and after `stop`."""

    def __init__(self, handler: Handler, *, log: structlog.typing.FilteringBoundLogger = log) -> None:
        self._handler = handler
        self._log = log
        self._handle: Callable[[Event], Awaitable[None]] | None = None

    async def start(self, deps: Dependencies) -> None:
        """Take the dependencies of this process."""
        self._handle = bind(self._handler, deps)

    def leave(self) -> None:
        """Begin to stop, at the stop signal; requests in flight go on."""

    async def stop(self, grace: float = 0.0) -> None:
        """Take no further event. Idempotent.

        Args:
            grace: Seconds for work that goes on without a request.
        """
        self._handle = None

    def ready(self) -> dict[str, Check]:
        """Return the checks of readiness that only this function has, by name."""
        return {}

    async def respond(self, request: Request) -> Response:
        """Handle the event of a request; answer with the HTTP status of the result.

        Logs one line with the result, at `debug` for a wait, which may recur thousands of times.
        """
        handle, log, began = self._handle, self._log, time.monotonic()
        if request.method != "POST":
            return PlainTextResponse("post a CloudEvent", 405, {"Allow": "POST"})
        if handle is None:
            return PlainTextResponse("starting", 503)
        try:
            event = decode(request.headers, await request.body())
        except InvalidEvent as error:
            return PlainTextResponse(str(error), error.http_status)
        which = {"type": event.type, "event_id": event.id}
        with structlog.contextvars.bound_contextvars(**logs.about(event.extensions.get(NATS_SUBJECT), event)):
            try:
                with tracing.span(f"process {event.type}", event):
                    await handle(event)
            except Drop as error:
                log.info("event dropped", action="event.dropped", reason=str(error), **which)
            except OcfError as error:
                say = log.warning
                if isinstance(error, Retry):
                    say = log.debug if isinstance(error, WAITING) else log.info
                say("event refused", action="event.refused", reason=str(error), **which)
                again = {"Retry-After": "1"} if isinstance(error, Busy) else {}
                return PlainTextResponse(str(error), error.http_status, again)
            except OSError as error:
                # A fault of this machine, probably a full disk, and not of the event: request redelivery.
                reason = f"{error.strerror or type(error).__name__} ({error.filename or ''})"
                log.error("event not handled", action="event.failed", reason=reason, **which)
                return PlainTextResponse(reason, 503)
            except Exception as error:
                # A bug. Logged here, because the framework's log line would not name the execution.
                log.exception("event not handled", action="event.failed", reason=type(error).__name__, **which)
                return PlainTextResponse(type(error).__name__, 500)
            else:
                log.info("event handled", action="event.handled", seconds=round(time.monotonic() - began, 3), **which)
        return PlainTextResponse("OK")
