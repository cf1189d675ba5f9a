"""Entry point of the cleanup function for functions-framework (`FUNCTION_TARGET=cleanup`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from ocf.functions.cleanup import handler
from ocf.functions.runtime.asgi import handle


@functions_framework.aio.cloud_event
async def cleanup(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.cleanup.handler`."""
    await handle(handler.cleanup, cloud_event)
