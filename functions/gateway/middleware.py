"""Middleware of every call, as plain ASGI: security headers, metrics, host and origin, size of the body."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocf.functions.core.address_rules import is_loopback
from ocf.functions.gateway.context import too_large
from ocf.functions.gateway.metrics import Metrics
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.rate_limit import Bodies
from ocf.functions.gateway.settings import GatewaySettings

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers are data and must not run. The console's pages use a policy of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
#: Methods with a series each; others count as "other". The method is unauthenticated input.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMiddleware:
    """Counts calls and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a call; count it and add the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            # The route's template, not the path: each id would make a series.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)


class LoopbackOnly:
    """Blocks web pages that reach an unauthenticated gateway through the user's browser.

    The `Host` must be a loopback name, which a rebound DNS name is not; so must an `Origin`, if present.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a call, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            problem = self._check(Headers(scope=scope))
            if problem is not None:
                await refuse(problem, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if not _is_loopback(f"//{host}"):
            return Problem(421, "foreign-host", "without authentication this gateway answers to loopback names only")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and not _is_loopback(origin):
            return Problem(403, "foreign-origin", "without authentication pages of other origins are not served")
        return None


@lru_cache(maxsize=256)
def _is_loopback(url: str) -> bool:
    """Return whether `url` has a loopback name. Cached: every call asks, nearly always for the same URL."""
    return is_loopback(_hostname(url))


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class BodyLimit:
    """Refuses bodies over the limit, by their stated and actual size, and counts all bodies in memory (`Bodies`).

    A body is read once its caller is known (`caller_of`), and is charged to the caller until the call is over. A route
    may set a lower limit and another count before it reads (`state.body_limit`, `state.bodies`). The paths of
    `streamed` hold no body in memory, and have a limit of their own.
    """

    def __init__(self, app: ASGIApp, limit: int, bodies: Bodies, streamed: frozenset[str]) -> None:
        self._app = app
        self._streamed = streamed
        self._limit = limit
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a call whose body is within the limits."""
        if scope["type"] != "http" or scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit:
            await refuse(too_large(self._limit), scope, receive, send)
            return
        held: Counter[tuple[Bodies, str]] = Counter()
        try:
            await self._app(scope, self._counted(receive, scope, held), send)
        finally:
            for (bodies, caller), size in held.items():
                bodies.release(caller, size)

    def _counted(
        self, receive: Receive, scope: Scope, held: Counter[tuple[Bodies, str]]
    ) -> Callable[[], Awaitable[Message]]:
        state = scope.setdefault("state", {})

        async def counting() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            if size:
                limit = state.get("body_limit", self._limit)
                if held.total() + size > limit:
                    raise too_large(limit)
                bodies, caller = state.get("bodies", self._bodies), state.get("allowance", "nobody")
                bodies.take(caller, size)
                held[bodies, caller] += size
            return message

        return counting


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `problem` before any route handles the call, HTTP or WebSocket."""
    response = problem.response(scope["path"])
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    await _deny(response, scope, receive, send)


async def _deny(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return

    async def as_websocket(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await response({**scope, "type": "http", "method": "GET"}, receive, as_websocket)
