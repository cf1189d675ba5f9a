"""Entry point of the archive function for functions-framework (`FUNCTION_TARGET=archive`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from functions.app import handle
from functions.archive import handler


@functions_framework.aio.cloud_event
async def archive(cloud_event: CloudEvent) -> None:
    """Take one event; see `functions.archive.handler`."""
    await handle(handler.archive, cloud_event)
