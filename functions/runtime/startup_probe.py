"""Serve health from the start of a process, before its dependencies are connected.

A startup probe asks whether the process lives. Without this, Kubernetes would restart every pod during an outage of
NATS, and the pods would not be ready when NATS is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from ocf.events.errors import Unavailable
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.runtime import uvicorn_server
from ocf.functions.runtime.health import health_routes
from ocf.functions.workers.parent_channel import Link

#: Connects the process, opens the front with its application, awaits the end of the server, and disconnects.
Life = Callable[["Front", Awaitable[float]], Coroutine[Any, Any, None]]


class Front:
    """The application of a process: `/health` 200 and `/ready` 503 until it is opened, then the process's own."""

    def __init__(self) -> None:
        self._waits_for = "not connected yet"
        routes = [*health_routes({"nats": self._connected}), Mount("/", app=_starting)]
        self._app: ASGIApp = Starlette(routes=routes)
        self.opened = False
        #: Called at the stop signal.
        self.on_stop: Callable[[], None] = lambda: None

    def note(self, reason: str) -> None:
        """Set the reason why NATS is not connected yet, which `/ready` shows."""
        self._waits_for = reason

    async def _connected(self) -> None:
        raise Unavailable(self._waits_for)

    def open(self, app: ASGIApp) -> None:
        """Pass all further requests to `app`."""
        uvicorn_server.freeze_objects()
        self._app = app
        self.opened = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)


async def _starting(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 503 with a problem document (RFC 9457); close a WebSocket with 1013, "try again later" (RFC 6455)."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013})
        return
    problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "starting; see /ready"}
    headers = {"Retry-After": "1"}
    await JSONResponse(problem, 503, headers, media_type="application/problem+json")(scope, receive, send)


async def serve(config: Callable[[ASGIApp], uvicorn.Config], life: Life, link: Link | None = None) -> None:
    """Serve until SIGTERM or SIGINT, from before `life` has connected the process until it has disconnected it.

    Args:
        config: Returns the server's configuration for an application.
        life: The process's own part. Its server is awaited once.
        link: The link to the parent, which answers `/health` itself and gets ready workers only.
    """
    front = Front()
    server = uvicorn_server.serve(config(front), link, lambda: front.on_stop())
    if link is not None:
        try:
            await life(front, server)
        finally:
            server.close()
        return
    serving = asyncio.create_task(server)
    living = asyncio.create_task(life(front, asyncio.shield(serving)))
    try:
        await asyncio.wait((serving, living), return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not front.opened:
            return  # told to stop before it was ready
        await living
    finally:
        await cancel_and_wait([serving, living])
