"""Entry point of every function: `FUNCTION_TARGET=submit python -m ocf.functions.runtime.serve`.

One process can serve several functions (`FUNCTION_TARGET=submit,cancel,gateway`), as in the embedded stack, to save
memory. Events are posted to `/fn/<name>`, or to `/` if there is only one function. `execute` is always alone; for
concurrent executions the process becomes the parent of workers (`functions/workers/parent.py`).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from ocf.events.errors import OcfError
from ocf.functions.observability import logs, metrics, tracing
from ocf.functions.runtime import asgi, startup_probe
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.runtime.dry_run import EventRouter
from ocf.functions.runtime.function import Function
from ocf.functions.runtime.health import Check, health_routes
from ocf.functions.settings.settings import Settings, load_or_exit
from ocf.functions.workers import sealed_environment
from ocf.functions.workers.parent_channel import Link

FUNCTIONS = ("submit", "execute", "cancel", "cleanup", "session", "archive", "history", "trigger", "result")
TARGETS = (*FUNCTIONS, "gateway")


def targets(settings: Settings) -> tuple[str, ...]:
    """Return the functions of `FUNCTION_TARGET`; exit with one line if it is empty or unknown."""
    names = tuple(name.strip() for name in settings.function_target.split(",") if name.strip())
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        problem = repr(unknown[0]) if unknown else "it is empty; it"
        sys.stderr.write(f"ocf: FUNCTION_TARGET: {problem} must be one or more of {', '.join(TARGETS)}\n")
        raise SystemExit(2)
    if "execute" in names and len(names) > 1:
        sys.stderr.write(
            "ocf: FUNCTION_TARGET: execute must be alone, so that harm to its process affects no other function\n"
        )
        raise SystemExit(2)
    return names


def beside(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the functions of a dry run of `names`: all, because their commands build the state.

    `execute` is among them only if it is named, because it alone starts an agent.
    """
    return tuple(name for name in FUNCTIONS if name != "execute" or name in names)


def function_of(name: str) -> Function:
    """Return the function `name`."""
    found: Function = importlib.import_module(f"ocf.functions.{name}.main").function
    return found


@asynccontextmanager
async def started(deps: Dependencies, names: tuple[str, ...]) -> AsyncIterator[list[Function]]:
    """Start the functions; stop them in reverse order at the end."""
    async with AsyncExitStack() as stack:
        functions = [function_of(name) for name in names]
        for function in functions:
            stack.push_async_callback(function.stop)
            await function.start(deps)
        yield functions


def build_app(
    deps: Dependencies,
    names: tuple[str, ...],
    gateway: ASGIApp | None,
    checks: dict[str, Check],
    exposition: Callable[[], bytes] = metrics.exposition,
) -> Starlette:
    """Return the ASGI app of one process."""
    token = deps.settings.dispatch_token
    functions = tuple(name for name in names if name in FUNCTIONS)
    mounts = asgi.function_mounts(functions, token.get_secret_value() if token else None, alone=len(names) == 1)
    if deps.settings.dry_run:
        router = EventRouter(deps.bus, {name: asgi.function_app(name) for name in beside(functions)})
        mounts = [Mount("/", app=router)]
    routes: list[BaseRoute] = [] if gateway else list(health_routes(checks, exposition))
    routes += mounts
    if gateway is not None:
        routes.append(Mount("/", app=gateway))
    return Starlette(routes=routes)


@asynccontextmanager
async def assembled(
    settings: Settings,
    names: tuple[str, ...],
    exposition: Callable[[], bytes] = metrics.exposition,
    note: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[tuple[Starlette, list[Function]]]:
    """Start everything that the app needs, and yield the app and its functions; stop in reverse order at the end.

    `note` gets the reason of each failed try to connect.
    """
    async with AsyncExitStack() as stack:
        name = "+".join(names) if len(names) < 3 else "control"
        deps = await stack.enter_async_context(build(settings, name, note))
        metrics.expect_ends()
        checks: dict[str, Check] = {"nats": deps.bus.ready}
        if any(name in ("execute", "archive", "cleanup", "submit", "session", "result") for name in names):
            checks["s3"] = deps.store.ready
        wanted = tuple(name for name in names if name in FUNCTIONS)
        functions = await stack.enter_async_context(started(deps, beside(wanted) if settings.dry_run else wanted))
        for function in functions:
            checks |= function.ready()
        gateway: ASGIApp | None = None
        if "gateway" in names:
            module = importlib.import_module("ocf.functions.gateway.main")
            gateway = await stack.enter_async_context(module.serving(deps))
        yield build_app(deps, names, gateway, checks, exposition), functions


async def run(settings: Settings, names: tuple[str, ...], link: Link | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. With a `link`, serve the connections of the parent."""
    if link is not None:
        link.start()
    exposition = metrics.exposition if link is None else link.tally.exposition

    async def life(front: startup_probe.Front, stopped: Awaitable[float]) -> None:
        async with assembled(settings, names, exposition, front.note) as (application, functions):
            front.on_stop = lambda: _leave(functions)
            front.open(application)
            stopped_for = await stopped
            for function in functions:
                await function.stop(settings.drain_seconds - stopped_for)

    try:
        await startup_probe.serve(lambda app: _config(settings, names, app), life, link)
    except OcfError as error:
        sys.stderr.write(f"ocf: cannot start {'+'.join(names)}: {error}\n")
        return 1
    finally:
        tracing.flush()
    return 0


def _leave(functions: list[Function]) -> None:
    for function in functions:
        function.leave()


def _config(settings: Settings, names: tuple[str, ...], app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="websockets-sansio" if "gateway" in names else "none",
        # Only executions justify a long graceful shutdown.
        timeout_graceful_shutdown=settings.drain_seconds if "execute" in names else 10,
    )


def main() -> None:
    """Run this process as a parent of workers or as a server, depending on its environment."""
    if sealed_environment.needs_parent(os.environ):
        importlib.import_module("ocf.functions.workers.parent").main()
    if sealed_environment.SEALED in os.environ:
        sealed_environment.unseal(int(os.environ[sealed_environment.SEALED]))
    raise SystemExit(work())


def work(link: Link | None = None) -> int:
    """Serve the functions in this process's environment; return the exit status."""
    import uvloop

    settings = load_or_exit()
    names = targets(settings)
    logs.configure(settings.log_level)
    tracing.configure(settings, "+".join(names) if len(names) < 3 else "control")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings, names, link))


if __name__ == "__main__":
    main()
