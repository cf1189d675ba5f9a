"""ASGI apps of the functions: handlers behind functions-framework."""

from __future__ import annotations

import hmac
import importlib
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog
from cloudevents.http import CloudEvent
from functions_framework.aio import create_asgi_app_from_module
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ocf.events.delivery import NATS_SUBJECT
from ocf.events.envelope import JSON, Event
from ocf.events.errors import WAITING, Busy, Drop, OcfError, Retry
from ocf.functions.observability import logs, tracing
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

Handler = Callable[[Dependencies, Event], Awaitable[None]]

_current: Dependencies | None = None


def set_dependencies(deps: Dependencies | None) -> None:
    """Set the dependencies of this process's functions; functions-framework passes only the event to a function."""
    global _current
    _current = deps


async def handle(handler: Handler, cloud_event: CloudEvent) -> None:
    """Run `handler` on an event of functions-framework; convert errors to the HTTP status of their class."""
    if _current is None:
        raise HTTPException(503, "starting")
    event = from_cloudevent(cloud_event)
    with structlog.contextvars.bound_contextvars(**logs.about(event.extensions.get(NATS_SUBJECT), event)):
        await _handle(handler, _current, event)


async def _handle(handler: Handler, deps: Dependencies, event: Event) -> None:
    """Run `handler` and log one line with the result, at `debug` for a wait, which may recur thousands of times."""
    began, which = time.monotonic(), {"type": event.type, "event_id": event.id}
    try:
        with tracing.span(f"process {event.type}", event):
            await handler(deps, event)
    except Drop as error:
        log.info("event dropped", action="event.dropped", reason=str(error), **which)
    except OcfError as error:
        headers = {"Retry-After": "1"} if isinstance(error, Busy) else None
        level = log.warning
        if isinstance(error, Retry):
            level = log.debug if isinstance(error, WAITING) else log.info
        level("event refused", action="event.refused", reason=str(error), **which)
        raise HTTPException(error.http_status, str(error), headers=headers) from None
    except OSError as error:
        # A fault of this machine, probably a full disk, and not of the event: request redelivery.
        reason = f"{error.strerror or type(error).__name__} ({error.filename or ''})"
        log.error("event not handled", action="event.failed", reason=reason, **which)
        raise HTTPException(503, reason) from None
    except Exception as error:
        # A bug. Logged here, because the framework's log line would not name the execution.
        log.exception("event not handled", action="event.failed", reason=type(error).__name__, **which)
        raise HTTPException(500, type(error).__name__) from None
    else:
        log.info("event handled", action="event.handled", seconds=round(time.monotonic() - began, 3), **which)


def from_cloudevent(event: CloudEvent) -> Event:
    """Convert an event of the SDK. The SDK has parsed JSON data, which is serialised again."""
    attributes: dict[str, Any] = dict(event.get_attributes())
    data = event.get_data()
    if data is None:
        body = b""
    elif isinstance(data, bytes):
        body = data
    else:
        body = json.dumps(data, ensure_ascii=False).encode()
    core = {name: attributes.pop(name, None) for name in ("id", "source", "type", "subject", "time", "specversion")}
    content_type = attributes.pop("datacontenttype", None) or JSON
    attributes.pop("dataschema", None)
    return Event(
        type=str(core["type"]),
        source=str(core["source"]),
        id=str(core["id"]),
        time=datetime.fromisoformat(str(core["time"])),
        data=body,
        subject=core["subject"],
        datacontenttype=str(content_type),
        extensions={name: str(value) for name, value in attributes.items()},
    )


def function_app(name: str) -> ASGIApp:
    """Return the functions-framework app of `ocf.functions.<name>.main`."""
    module = importlib.import_module(f"ocf.functions.{name}.main")
    make: Callable[..., ASGIApp] = create_asgi_app_from_module
    app = make(name, module.__file__, "cloudevent", module, module.__spec__)
    return app


class DispatcherOnly:
    """Middleware that requires the dispatch token, so that other pods cannot inject events."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 without the token, else call the app."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"ocf-dispatch-token", b"")
            if not hmac.compare_digest(given, self._token):
                response = PlainTextResponse("events are accepted from the dispatcher only", 401)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def function_mounts(names: tuple[str, ...], token: str | None, *, alone: bool) -> list[BaseRoute]:
    """Return the routes for events: `/fn/<name>`, and `/` if the function is `alone` in its process."""
    mounts: list[BaseRoute] = []
    for name in names:
        app = function_app(name)
        guarded = app if token is None else DispatcherOnly(app, token)
        mounts.append(Route(f"/fn/{name}", guarded))
        if alone:
            mounts.append(Mount("/", app=guarded))
    return mounts
