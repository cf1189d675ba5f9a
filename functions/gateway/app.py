"""The gateway as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.gateway import problems
from ocf.functions.gateway.context import Gateway
from ocf.functions.gateway.gateway_deps import GatewayDeps
from ocf.functions.gateway.middleware import BodyLimit, LoopbackOnly, RequestMiddleware
from ocf.functions.gateway.openapi import describe
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.routes import (
    bundles,
    comparison,
    credentials,
    downloads,
    events,
    hooks,
    models,
    operations,
    rerun,
    schedules,
    sessions,
    stream,
    tasks,
    triggers,
    usage,
)
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.gateway.static_files import Console

_PARTS = (
    tasks,
    rerun,
    comparison,
    bundles,
    downloads,
    sessions,
    models,
    usage,
    credentials,
    events,
    hooks,
    triggers,
    schedules,
    operations,
    stream,
)
_PROBES = frozenset({"/health", "/ready", "/metrics"})


def create_app(deps: GatewayDeps) -> FastAPI:
    """Build the gateway's application. `app.state.gateway` is the `Gateway`."""
    gateway = Gateway(deps)
    app = FastAPI(
        title="OpenCode Functions",
        docs_url=None,  # its pages load from a CDN
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        middleware=_middleware(gateway),
        # One span per call, a child of the caller's. Probes arrive every few seconds and cause nothing.
        telemetry={"operation_spans": False, "metrics": False, "logs": False, "exclude": _is_probe},
    )
    app.state.gateway = gateway
    problems.install(app)
    app.add_exception_handler(405, _not_allowed)
    for part in _PARTS:
        app.router.routes.extend(part.router.routes)  # unchanged: `include_router` would compile each once more
    document = cache(lambda: describe(app))  # takes a tenth of a second, so only on request

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document(), 200, {"Cache-Control": "no-cache"}, "application/json")

    console = Console(deps.settings)

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        if _methods(request.url.path):
            raise HTTPException(405)
        return await console.answer(request)

    return app


def _is_probe(scope: Scope) -> bool:
    # The URI of an event may carry a token.
    return scope["path"] in _PROBES or scope["path"].startswith("/events/")


def _methods(path: str) -> set[str]:
    """Return the methods of the routes at `path`; empty when there is none."""
    routes = [route for part in _PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    routes_here = [route for route in routes if route.include_in_schema and route.path_regex.match(path)]
    literal = [route for route in routes_here if route.path == path]
    return {method for route in literal or routes_here for method in route.methods or ()}


async def _not_allowed(request: Request, error: Exception) -> Response:
    """Answer 405 with every method of the path; the framework knows only those of one route."""
    allowed = ", ".join(sorted(_methods(request.url.path))) or "GET"
    detail = f"{request.method} is not among {allowed}"
    return Problem(405, "method-not-allowed", detail, headers={"Allow": allowed}).response(request.url.path)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway: Gateway = app.state.gateway
    listening = asyncio.create_task(gateway.listing.listen())
    try:
        yield
    finally:
        await cancel_and_wait([listening])
        await gateway.auth.close()


def _middleware(gateway: Gateway) -> list[Middleware]:
    settings: GatewaySettings = gateway.settings
    chain = [Middleware(RequestMiddleware, metrics=gateway.metrics)]
    if not settings.authenticated:
        chain.append(Middleware(LoopbackOnly, settings=settings))
    if settings.cors_origins:
        chain.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "traceparent", "tracestate"],
                expose_headers=["Location", "Retry-After", "Content-Disposition"],
                max_age=600,
            )
        )
    chain.append(Middleware(BodyLimit, limit=settings.max_body, bodies=gateway.bodies, streamed=bundles.STREAMED))
    return chain
