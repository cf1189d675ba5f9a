"""Health, readiness and metrics over HTTP. Apart from `runtime.asgi`: the dispatcher needs no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ocf.events.errors import OcfError
from ocf.functions.observability import metrics

#: Raises where something is missing; returns what is to be said in place of `ok`, if anything.
Check = Callable[[], Awaitable[str | None]]


def health_routes(checks: dict[str, Check], exposition: Callable[[], bytes] = metrics.exposition) -> list[Route]:
    """`/health` (this process answers), `/ready` (each named check, 503 when one fails), `/metrics`."""

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

    async def metrics_text(_: Request) -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics_text)]
