"""Entry point of the archive function for functions-framework (`FUNCTION_TARGET=archive`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import functions_framework.aio
import structlog
from cloudevents.http import CloudEvent

from ocf.functions.archive import handler
from ocf.functions.archive.scratch_folders import sweep
from ocf.functions.runtime.asgi import handle
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.health import Check

log = structlog.get_logger()


@asynccontextmanager
async def lifespan(deps: Dependencies) -> AsyncIterator[dict[str, Check]]:
    """Remove scratch folders of earlier processes."""
    if removed := await asyncio.to_thread(sweep):
        log.info("leftovers removed", action="archive.leftovers_removed", folders=removed)
    yield {}


@functions_framework.aio.cloud_event
async def archive(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.archive.handler`."""
    await handle(handler.archive, cloud_event)
