"""ASGI apps of the functions: their entry points in functions-framework."""

from __future__ import annotations

import hmac
import importlib
from collections.abc import Callable

from functions_framework.aio import create_asgi_app_from_module
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send


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
