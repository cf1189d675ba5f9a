"""Entry point of the execute function for functions-framework (`FUNCTION_TARGET=execute`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import functions_framework.aio
from cloudevents.http import CloudEvent

from ocf.events.envelope import Event
from ocf.events.errors import Unavailable
from ocf.functions.execute.context import open_context
from ocf.functions.execute.worker import Worker, worker_of
from ocf.functions.runtime.asgi import handle
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.health import Check
from ocf.functions.workers import parent_link

_worker: Worker | None = None


@asynccontextmanager
async def lifespan(deps: Dependencies) -> AsyncIterator[dict[str, Check]]:
    """Run the worker of this process from start to drain; yield its readiness checks."""
    global _worker
    async with open_context(deps) as context:
        worker = _worker = worker_of(context)
        parent_link.register_work(worker)
        try:
            yield {
                "opencode": context.opencode_present,
                "workspace": context.workspace_writable,
                "boundary": context.boundary_in_force,
            }
        finally:
            await worker.stop()
            _worker = None


def leave() -> None:
    """Begin to stop, at the stop signal: requests may hold the server for as long as the current run."""
    if _worker is not None:
        _worker.leave()


async def drained(grace: float) -> None:
    """Let the current run end, for at most `grace` seconds.

    No request may hold the run any more: when a node drains, the dispatcher that waited for it goes as well.
    """
    if _worker is not None:
        await _worker.drained(grace)


async def _execute(_: Dependencies, event: Event) -> None:
    if _worker is None:
        raise Unavailable("starting")
    await _worker.execute(event)


@functions_framework.aio.cloud_event
async def execute(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.execute.worker`."""
    await handle(_execute, cloud_event)
