"""Entry point of the archive function for functions-framework (`FUNCTION_TARGET=archive`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import functions_framework.aio
import structlog
from cloudevents.http import CloudEvent

from functions.app import handle
from functions.archive import handler
from functions.archive.scratch import sweep
from functions.composition import Parts
from functions.health import Check

log = structlog.get_logger()


@asynccontextmanager
async def lifespan(parts: Parts) -> AsyncIterator[dict[str, Check]]:
    """First what an earlier process left is removed."""
    if removed := await asyncio.to_thread(sweep):
        log.info("leftovers removed", action="archive.leftovers_removed", folders=removed)
    yield {}


@functions_framework.aio.cloud_event
async def archive(cloud_event: CloudEvent) -> None:
    """Take one event; see `functions.archive.handler`."""
    await handle(handler.archive, cloud_event)
