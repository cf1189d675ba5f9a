"""Entry point of the dispatcher: `python -m ocf.functions.dispatcher.main`.

Serves health on `PORT`, and consumes the routes in `DISPATCH_CONSUMERS` (all if empty): those of `routes.py`, and the
sinks of `EVENT_SINKS` (`sinks` or `sink-NAME`). `FUNCTION_URLS` has the addresses of the functions. With
`DISPATCH_LEADER` one of several replicas handles all routes, and the others stand by (ADR 0026).
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from functools import partial
from typing import NoReturn

import httpx2
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from ocf.events.errors import Unavailable
from ocf.events.ports import Backlog, Bucket
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.open_executions import OpenExecutions
from ocf.functions.dispatcher import sink_routes
from ocf.functions.dispatcher.consumer import ConsumerLoop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import (
    FunctionTarget,
    KubernetesEvents,
    Target,
    Webhook,
    connections,
    function_url,
)
from ocf.functions.dispatcher.pod_starts import HoldingTarget, Wake, WakingTarget, WokenTarget
from ocf.functions.dispatcher.project_loop import ProjectLoop
from ocf.functions.dispatcher.routes import ROUTES, Route
from ocf.functions.observability import logs, metrics, tracing
from ocf.functions.runtime import startup_probe
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.runtime.health import health_routes
from ocf.functions.runtime.leader import Leader
from ocf.functions.settings.event_sinks import KUBERNETES, check
from ocf.functions.settings.settings import Settings, load_or_exit

log = structlog.get_logger()

#: Seconds for deliveries in flight at the stop; the lease lasts longer, and so does the patience of the embedded stack.
_SHORT_GRACE = 5.0
_LAG_EVERY = 15.0
#: Stands for all sinks in `DISPATCH_CONSUMERS`.
_SINKS = "sinks"


def selected_routes(settings: Settings) -> tuple[Route, ...]:
    """Return the routes of this process; exit with one line if a name is unknown."""
    outside = sink_routes.routes(settings.event_sinks, settings.event_sink_tries)
    known = {route.consumer: (route,) for route in (*ROUTES, *outside)} | {_SINKS: outside}
    chosen = settings.dispatch_consumers or (*(route.consumer for route in ROUTES), _SINKS)
    if unknown := [name for name in chosen if name not in known]:
        _exit(f"DISPATCH_CONSUMERS: {unknown[0]!r} is not one of {', '.join(known)}")
    found = tuple(route for name in chosen for route in known[name])
    _check(settings, {route.consumer for route in found})
    return found


def _check(settings: Settings, consumers: set[str]) -> None:
    """Exit with one line unless every sink of this process has a URL and a key."""
    served = tuple(sink for sink in settings.event_sinks if sink_routes.consumer(sink.name) in consumers)
    try:
        check(served, settings.event_sink_keys(), settings.k_sink)
    except ValueError as error:
        _exit(str(error))


def _exit(problem: str) -> NoReturn:
    sys.stderr.write(f"ocf: {problem}\n")
    raise SystemExit(2)


async def run(settings: Settings) -> None:
    """Dispatch until SIGTERM or SIGINT."""

    async def life(front: startup_probe.Front, stopped: Awaitable[float]) -> None:
        # Only requests to external sinks may use a proxy of the environment.
        inside, outside = httpx2.AsyncClient(transport=connections()), httpx2.AsyncClient()
        async with build(settings, "dispatcher", front.note) as deps, inside, outside:
            leader = Leader(deps.executions, settings.dispatch_leader, socket.gethostname(), deps.clock)
            stop = asyncio.Event()
            dispatching = asyncio.create_task(_dispatch(deps, leader, inside, outside, stop))
            serving = asyncio.ensure_future(stopped)
            checks = {"nats": deps.bus.ready, "leader": leader.state}
            front.open(Starlette(routes=list(health_routes(checks))))
            await asyncio.wait((serving, dispatching), return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await dispatching  # raises if it has ended by an error

    await startup_probe.serve(lambda app: _config(settings, app), life)


async def _dispatch(
    deps: Dependencies, leader: Leader, inside: httpx2.AsyncClient, outside: httpx2.AsyncClient, stop: asyncio.Event
) -> None:
    """Dispatch whenever this process leads, until `stop`; then finish what is in flight, and let another one lead."""
    routes = selected_routes(deps.settings)
    wake = None
    if deps.settings.dispatch_wake:
        wake = Wake(function_url(deps.settings.function_urls, "execute"), inside, deps.clock)
    while not stop.is_set() and await _ended_before(stop, leader.acquire()):
        loops: dict[str, ConsumerLoop | ProjectLoop] = {}
        for route in routes:
            loops[route.consumer] = _loop(deps, route, inside, outside, loops, wake)
        tasks = [asyncio.create_task(loop.run()) for loop in loops.values()]
        tasks.append(asyncio.create_task(_measure_lag(deps, routes, loops)))
        try:
            await _ended_before(stop, leader.keep())
        finally:
            await cancel_and_wait(tasks)
            await asyncio.gather(*(loop.stop(_SHORT_GRACE if loop.short else 0.1) for loop in loops.values()))
            await leader.release()
            for route in routes:
                metrics.forget_backlog(route.consumer)


async def _ended_before(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Return whether `work` ended before `stop`, which cancels it."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        await cancel_and_wait([working, stopping])


def _config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False, lifespan="off"
    )


async def _measure_lag(
    deps: Dependencies, routes: tuple[Route, ...], loops: Mapping[str, ConsumerLoop | ProjectLoop]
) -> None:
    while True:
        for route in routes:
            loop = loops.get(route.consumer)
            measured = loop.measure() if isinstance(loop, ProjectLoop) else deps.bus.backlog(route.spec())
            await _measure(route.consumer, measured)
        await deps.clock.sleep(_LAG_EVERY)


async def _measure(consumer: str, measured: Awaitable[Backlog]) -> None:
    """Set the backlog metrics of one route; remove them if the backlog is unknown, as old values would mislead."""
    try:
        backlog = await measured
    except Exception as error:
        metrics.forget_backlog(consumer)
        # Log the message of an outage; of other errors only the type.
        reason = str(error) if isinstance(error, Unavailable) else type(error).__name__
        log.warning("lag unknown", action="dispatch.lag_unknown", consumer=consumer, reason=reason)
    else:
        metrics.consumer_lag.labels(consumer).set(backlog.waiting)
        metrics.consumer_unsettled.labels(consumer).set(backlog.unsettled)


def _loop(
    deps: Dependencies,
    route: Route,
    inside: httpx2.AsyncClient,
    outside: httpx2.AsyncClient,
    loops: Mapping[str, ConsumerLoop | ProjectLoop],
    wake: Wake | None,
) -> ConsumerLoop | ProjectLoop:
    metrics.expect_deliveries(route.consumer)
    target, reject = _target(deps, route, inside, outside), deps.rejections.reject_message
    if wake is not None and route.consumer == "submit":
        target = WakingTarget(target, wake, partial(_has_room, loops))
    if wake is not None and route.consumer == "execute":
        target = WokenTarget(target, wake)
    if wake is not None and route.consumer == "history":
        target = HoldingTarget(target, deps.clock)
    dispatcher = Dispatcher(route, target, bus=deps.bus, clock=deps.clock, reject=reject)
    if not route.by_project:
        return ConsumerLoop(route, dispatcher, deps.bus, deps.clock)
    quota = deps.settings.max_project_tasks if route.consumer == "execute" else 0
    leased = partial(running, deps.records.open, deps.executions)
    return ProjectLoop(route, dispatcher, deps.bus, deps.clock, quota=quota, running=leased)


def _has_room(loops: Mapping[str, ConsumerLoop | ProjectLoop], project: str) -> bool:
    """Return whether an execution of a project could be delivered now; True if another dispatcher has that route."""
    loop = loops.get("execute")
    return not isinstance(loop, ProjectLoop) or loop.has_room(project)


async def running(open_: OpenExecutions, executions: Bucket) -> AsyncIterator[tuple[str, str]]:
    """Yield project and id of every execution that has a lease, among those that may be open."""
    keys = [ref.lease_key async for ref in open_.refs()]
    for entry in await executions.get_all(keys):
        project, execution, _ = entry.key.split(".")
        yield project, execution


def _target(deps: Dependencies, route: Route, inside: httpx2.AsyncClient, outside: httpx2.AsyncClient) -> Target:
    settings = deps.settings
    for sink in settings.event_sinks:
        if sink_routes.consumer(sink.name) == route.consumer:
            if sink.url == KUBERNETES:
                return KubernetesEvents(route)
            keys = settings.event_sink_keys().get(sink.name, ())
            # `selected_routes` has checked that there is one of the two.
            return Webhook(route, sink.url or settings.k_sink or "", keys, clock=deps.clock, http=outside)
    url = function_url(settings.function_urls, route.function)
    token = settings.dispatch_token.get_secret_value() if settings.dispatch_token else None
    return FunctionTarget(route, url, token, inside)


def main() -> None:
    """Run the dispatcher."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    selected_routes(settings)
    tracing.configure(settings, "dispatcher")
    uvicorn_loop().run_until_complete(run(settings))


def uvicorn_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, with which NATS is 15 to 30% faster."""
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    main()
