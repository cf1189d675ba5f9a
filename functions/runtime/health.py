"""Health, readiness and metrics over HTTP. Separate from `runtime.asgi`, because the dispatcher needs no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ocf.events.errors import OcfError
from ocf.functions.observability import metrics

#: Raises OcfError or OSError if the dependency is not ready; returns a text to report instead of `ok`, or None.
Check = Callable[[], Awaitable[str | None]]


def health_routes(checks: Mapping[str, Check], exposition: Callable[[], bytes] = metrics.exposition) -> list[Route]:
    """Return the routes `/health` (always 200), `/ready` (each check by name, 503 if one fails) and `/metrics`.

    Metrics are for whoever reaches the process itself: 404 for a request that came through a proxy.
    """

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        results: dict[str, str] = {}
        good = True
        for name, check in checks.items():
            try:
                results[name] = await check() or "ok"
            except (OcfError, OSError) as error:
                good = False
                results[name] = str(error)
        body = {"status": "ready" if good else "not ready", "checks": results}
        return JSONResponse(body, status_code=200 if good else 503)

    async def metrics_text(request: Request) -> Response:
        if metrics.came_through_a_proxy(request.headers):
            return Response(status_code=404)
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics_text)]
