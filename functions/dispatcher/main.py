"""Entry point: `python -m functions.dispatcher.main`. Health on `PORT`, rows from `DISPATCH_CONSUMERS` (all if empty).

In the cluster each row is a `ContainerSource`, and Knative says where to (`K_SINK`); locally `FUNCTION_URLS` does.
"""

from __future__ import annotations

import asyncio
import sys

import httpx
import structlog
import uvicorn
from starlette.applications import Starlette

from events.errors import Unavailable
from functions import logs, metrics, server, tracing
from functions.composition import Parts, build
from functions.dispatcher.dispatch import Dispatcher
from functions.dispatcher.loop import Loop
from functions.dispatcher.wiring import WIRING, Row
from functions.health import health_routes
from functions.settings import Settings, load_or_exit
from functions.urls import function_url

log = structlog.get_logger()

_SHORT_GRACE = 10.0
_LAG_EVERY = 15.0


def rows(settings: Settings) -> tuple[Row, ...]:
    """The rows this process runs. Exits with one line when a name is unknown."""
    if not settings.dispatch_consumers:
        return WIRING
    known = {row.consumer: row for row in WIRING}
    unknown = [name for name in settings.dispatch_consumers if name not in known]
    if unknown:
        sys.stderr.write(f"ocf: DISPATCH_CONSUMERS: {unknown[0]!r} is none of {', '.join(known)}\n")
        raise SystemExit(2)
    return tuple(known[name] for name in settings.dispatch_consumers)


async def run(settings: Settings) -> None:
    """Dispatch until told to stop (SIGTERM, SIGINT)."""
    async with build(settings, "dispatcher") as parts, httpx.AsyncClient(limits=_LIMITS) as http:
        loops = [_loop(parts, row, http) for row in rows(settings)]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        tasks.append(asyncio.create_task(_measure_lag(parts, rows(settings))))
        await server.serve(
            uvicorn.Config(
                Starlette(routes=list(health_routes({"nats": parts.bus.ready}))),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
            )
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(loop.stop(_SHORT_GRACE if loop.short else 0.1) for loop in loops))


async def _measure_lag(parts: Parts, wired: tuple[Row, ...]) -> None:
    while True:
        for row in wired:
            try:
                metrics.consumer_lag.labels(row.consumer).set(await parts.bus.lag(row.spec()))
            except Unavailable as error:
                log.info("lag not known", action="dispatch.lag_unknown", consumer=row.consumer, reason=str(error))
        await parts.clock.sleep(_LAG_EVERY)


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)


def _loop(parts: Parts, row: Row, http: httpx.AsyncClient) -> Loop:
    settings = parts.settings
    url = settings.k_sink or function_url(settings.function_urls, row.function)
    token = settings.dispatch_token.get_secret_value() if settings.dispatch_token else None
    dispatcher = Dispatcher(row, url, token, bus=parts.bus, clock=parts.clock, http=http)
    return Loop(row, dispatcher, parts.bus, parts.clock)


def main() -> None:
    """Run it."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    rows(settings)
    tracing.configure(settings, "dispatcher")
    uvicorn_loop().run_until_complete(run(settings))


def uvicorn_loop() -> asyncio.AbstractEventLoop:
    """uvloop: 15 to 30% on everything NATS."""
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    main()
