"""The functions' handlers, on the dependencies of a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from ocf.events.envelope import Event
from ocf.functions.archive import handler as archive_handler
from ocf.functions.cancel import handler as cancel_handler
from ocf.functions.cleanup import handler as cleanup_handler
from ocf.functions.history import handler as history_handler
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.function import Handler, bind
from ocf.functions.session import handler as session_handler
from ocf.functions.submit import handler as submit_handler
from ocf.functions.trigger import handler as trigger_handler


def _taking_all(handler: Handler) -> Callable[[Dependencies, Event], Awaitable[None]]:
    async def taken(deps: Dependencies, event: Event) -> None:
        await bind(handler, deps)(event)

    return taken


def post(event: Event, method: str = "POST") -> Request:
    """A request of the dispatcher."""
    headers = [(name.lower().encode(), value.encode()) for name, value in event.http_headers().items()]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": event.data}

    return Request({"type": "http", "method": method, "headers": headers}, receive)


history = _taking_all(history_handler.history)
archive = _taking_all(archive_handler.archive)
cancel = _taking_all(cancel_handler.cancel)
cleanup = _taking_all(cleanup_handler.cleanup)
session = _taking_all(session_handler.session)
submit = _taking_all(submit_handler.submit)
trigger = _taking_all(trigger_handler.trigger)
