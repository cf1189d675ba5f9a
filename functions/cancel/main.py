"""Entry point of the cancel function for functions-framework (`FUNCTION_TARGET=cancel`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from ocf.functions.cancel import handler
from ocf.functions.runtime.asgi import handle


@functions_framework.aio.cloud_event
async def cancel(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.cancel.handler`."""
    await handle(handler.cancel, cloud_event)
