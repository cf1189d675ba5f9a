"""Entry point of the submit function for functions-framework (`FUNCTION_TARGET=submit`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from ocf.functions.runtime.asgi import handle
from ocf.functions.submit import handler


@functions_framework.aio.cloud_event
async def submit(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.submit.handler`."""
    await handle(handler.submit, cloud_event)
