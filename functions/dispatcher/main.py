"""Entry point of the dispatcher: `python -m ocf.functions.dispatcher.main`.

Serves health on `PORT` and consumes the rows in `DISPATCH_CONSUMERS` (all if empty).
The rows are the wiring's and, as `sinks` or one by one (`sink-NAME`), those of `EVENT_SINKS`. In the cluster each row
of the wiring is a `ContainerSource`, and Knative says where to (`K_SINK`); locally `FUNCTION_URLS` does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import NoReturn

import httpx
import structlog
import uvicorn
from starlette.applications import Starlette

from ocf.events.errors import Unavailable
from ocf.events.ports import Backlog, Bucket
from ocf.functions.core.cancellation import cancel_and_wait
from ocf.functions.dispatcher import sink_routes
from ocf.functions.dispatcher.consumer import ConsumerLoop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.function_urls import function_url
from ocf.functions.dispatcher.http_target import Function, Target, Webhook, connections
from ocf.functions.dispatcher.project_consumers import ProjectLoop
from ocf.functions.dispatcher.routes import ROUTES, Route
from ocf.functions.observability import logs, metrics, tracing
from ocf.functions.runtime import uvicorn_server
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.runtime.health import health_routes
from ocf.functions.settings.settings import Settings, load_or_exit
from ocf.functions.settings.sink_rules import check

log = structlog.get_logger()

_SHORT_GRACE = 10.0
_LAG_EVERY = 15.0
#: In `DISPATCH_CONSUMERS`: every sink there is.
_SINKS = "sinks"


def rows(settings: Settings) -> tuple[Route, ...]:
    """The rows this process runs. Exits with one line when a name is unknown."""
    outside = sink_routes.rows(settings.event_sinks, settings.event_sink_tries)
    known = {row.consumer: (row,) for row in (*ROUTES, *outside)} | {_SINKS: outside}
    chosen = settings.dispatch_consumers or (*(row.consumer for row in ROUTES), _SINKS)
    if unknown := [name for name in chosen if name not in known]:
        _exit(f"DISPATCH_CONSUMERS: {unknown[0]!r} is none of {', '.join(known)}")
    found = tuple(row for name in chosen for row in known[name])
    _check(settings, {row.consumer for row in found})
    return found


def _check(settings: Settings, consumers: set[str]) -> None:
    """Every sink that this process serves has a URL and a key."""
    served = tuple(sink for sink in settings.event_sinks if sink_routes.consumer(sink.name) in consumers)
    try:
        check(served, settings.event_sink_keys(), settings.k_sink)
    except ValueError as error:
        _exit(str(error))


def _exit(problem: str) -> NoReturn:
    sys.stderr.write(f"ocf: {problem}\n")
    raise SystemExit(2)


async def run(settings: Settings) -> None:
    """Dispatch until told to stop (SIGTERM, SIGINT)."""
    # Only what goes outside may take a proxy of the environment.
    inside, outside = httpx.AsyncClient(transport=connections()), httpx.AsyncClient()
    async with build(settings, "dispatcher") as deps, inside, outside:
        wired = rows(settings)
        loops = {row.consumer: _loop(deps, row, inside, outside) for row in wired}
        tasks = [asyncio.create_task(loop.run()) for loop in loops.values()]
        tasks.append(asyncio.create_task(_measure_lag(deps, wired, loops)))
        await uvicorn_server.serve(
            uvicorn.Config(
                Starlette(routes=list(health_routes({"nats": deps.bus.ready}))),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
            )
        )
        await cancel_and_wait(tasks)
        await asyncio.gather(*(loop.stop(_SHORT_GRACE if loop.short else 0.1) for loop in loops.values()))


async def _measure_lag(
    deps: Dependencies, wired: tuple[Route, ...], loops: Mapping[str, ConsumerLoop | ProjectLoop] | None = None
) -> None:
    while True:
        for row in wired:
            loop = (loops or {}).get(row.consumer)
            measured = loop.measure() if isinstance(loop, ProjectLoop) else deps.bus.backlog(row.spec())
            await _measure(row.consumer, measured)
        await deps.clock.sleep(_LAG_EVERY)


async def _measure(consumer: str, measured: Awaitable[Backlog]) -> None:
    """Set what is known of one row. What is not known has no value: an old one would say that all is well."""
    try:
        backlog = await measured
    except Exception as error:
        metrics.forget_backlog(consumer)
        # An outage is no surprise; of anything else the kind will do.
        reason = str(error) if isinstance(error, Unavailable) else type(error).__name__
        log.warning("lag not known", action="dispatch.lag_unknown", consumer=consumer, reason=reason)
    else:
        metrics.consumer_lag.labels(consumer).set(backlog.waiting)
        metrics.consumer_unsettled.labels(consumer).set(backlog.unsettled)


def _loop(
    deps: Dependencies, row: Route, inside: httpx.AsyncClient, outside: httpx.AsyncClient
) -> ConsumerLoop | ProjectLoop:
    metrics.expect_deliveries(row.consumer)
    target, reject = _target(deps, row, inside, outside), deps.rejections.reject_message
    dispatcher = Dispatcher(row, target, bus=deps.bus, clock=deps.clock, reject=reject)
    if not row.by_project:
        return ConsumerLoop(row, dispatcher, deps.bus, deps.clock)
    quota = deps.settings.max_project_tasks if row.consumer == "execute" else 0
    return ProjectLoop(row, dispatcher, deps.bus, deps.clock, quota=quota, running=lambda: running(deps.executions))


async def running(executions: Bucket) -> AsyncIterator[tuple[str, str]]:
    """Project and id of every execution that a worker has: it has a lease."""
    async for entry in executions.entries("*.*.lease"):
        project, execution, _ = entry.key.split(".")
        yield project, execution


def _target(deps: Dependencies, row: Route, inside: httpx.AsyncClient, outside: httpx.AsyncClient) -> Target:
    settings = deps.settings
    for sink in settings.event_sinks:
        if sink_routes.consumer(sink.name) == row.consumer:
            keys = settings.event_sink_keys().get(sink.name, ())
            # `rows` has seen to it that there is one of the two.
            return Webhook(row, sink.url or settings.k_sink or "", keys, clock=deps.clock, http=outside)
    url = settings.k_sink or function_url(settings.function_urls, row.function)
    token = settings.dispatch_token.get_secret_value() if settings.dispatch_token else None
    return Function(row, url, token, inside)


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
