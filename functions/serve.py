"""Entry point of every function: `FUNCTION_TARGET=submit python -m functions.serve`.

One process can serve several (`FUNCTION_TARGET=submit,cancel,gateway`): that is what the embedded stack does to stay
small. Events go in at `/fn/<name>`, and at `/` where there is only one function.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from events.errors import OcfError
from functions import app, logs, metrics, server, tracing
from functions.composition import Parts, build
from functions.dry_run import ByType
from functions.health import Check, health_routes
from functions.settings import Settings, load_or_exit

FUNCTIONS = ("submit", "execute", "cancel", "cleanup", "session", "archive")
TARGETS = (*FUNCTIONS, "gateway")


def targets(settings: Settings) -> tuple[str, ...]:
    """The functions of `FUNCTION_TARGET`. Exits with one line when it is empty or unknown."""
    names = tuple(name.strip() for name in settings.function_target.split(",") if name.strip())
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        said = repr(unknown[0]) if unknown else "it is empty; it"
        sys.stderr.write(f"ocf: FUNCTION_TARGET: {said} must be one or more of {', '.join(TARGETS)}\n")
        raise SystemExit(2)
    return names


def build_app(parts: Parts, names: tuple[str, ...], gateway: ASGIApp | None, checks: dict[str, Check]) -> Starlette:
    """The ASGI app of one process."""
    token = parts.settings.dispatch_token
    functions = tuple(name for name in names if name in FUNCTIONS)
    mounts = app.function_mounts(functions, token.get_secret_value() if token else None, alone=len(names) == 1)
    if parts.settings.dry_run:
        # What builds up the state that a function needs is there too; only execute starts anything.
        beside = {*functions, *FUNCTIONS} - ({"execute"} - {*functions})
        mounts = [Mount("/", app=ByType(parts.bus, {name: app.function_app(name) for name in beside}))]
    routes: list[BaseRoute] = [] if gateway else list(health_routes(checks))
    routes += mounts
    if gateway is not None:
        routes.append(Mount("/", app=gateway))
    return Starlette(routes=routes)


@asynccontextmanager
async def assembled(settings: Settings, names: tuple[str, ...]) -> AsyncIterator[Starlette]:
    """The app with everything it needs running; stopped in reverse order at the end.

    A function module may have `lifespan(parts)`, an async context manager that yields its readiness checks, and
    `drained(grace)`, which is waited for before that ends.
    """
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(build(settings, "+".join(names) if len(names) < 3 else "control"))
        app.use(parts)
        metrics.expect_ends()
        checks: dict[str, Check] = {"nats": parts.bus.ready}
        if any(name in ("execute", "archive", "cleanup", "submit", "session") for name in names):
            checks["s3"] = parts.store.ready
        gateway: ASGIApp | None = None
        for name in names:
            module = importlib.import_module(f"functions.{name}.main")
            if hasattr(module, "lifespan"):
                checks |= await stack.enter_async_context(module.lifespan(parts))
            if name == "gateway":
                gateway = await stack.enter_async_context(module.serving(parts))
        yield build_app(parts, names, gateway, checks)


async def run(settings: Settings, names: tuple[str, ...]) -> int:
    """Serve until SIGTERM or SIGINT; exit status."""
    try:
        async with assembled(settings, names) as application:
            config = uvicorn.Config(
                application,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                ws="websockets-sansio",
                # Only a run is worth waiting for that long.
                timeout_graceful_shutdown=settings.drain_seconds if "execute" in names else 10,
            )
            told = await server.serve(config)
            for name in names:
                module = importlib.import_module(f"functions.{name}.main")
                if hasattr(module, "drained"):
                    await module.drained(settings.drain_seconds - told)
    except OcfError as error:
        sys.stderr.write(f"ocf: cannot start {'+'.join(names)}: {error}\n")
        return 1
    finally:
        app.use(None)
        tracing.flush()
    return 0


def main() -> None:
    """Run it."""
    import uvloop

    settings = load_or_exit()
    names = targets(settings)
    logs.configure(settings.log_level)
    tracing.configure(settings, "+".join(names) if len(names) < 3 else "control")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise SystemExit(runner.run(run(settings, names)))


if __name__ == "__main__":
    main()
