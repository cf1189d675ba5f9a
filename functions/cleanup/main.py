"""Entry point of the cleanup function for functions-framework (`FUNCTION_TARGET=cleanup`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from functions.app import handle
from functions.cleanup import handler


@functions_framework.aio.cloud_event
async def cleanup(cloud_event: CloudEvent) -> None:
    """Take one event; see `functions.cleanup.handler`."""
    await handle(handler.cleanup, cloud_event)
