"""Entry point of the session function for functions-framework (`FUNCTION_TARGET=session`)."""

from __future__ import annotations

import functions_framework.aio
from cloudevents.http import CloudEvent

from ocf.functions.runtime.asgi import handle
from ocf.functions.session import handler


@functions_framework.aio.cloud_event
async def session(cloud_event: CloudEvent) -> None:
    """Handle one event; see `ocf.functions.session.handler`."""
    await handle(handler.session, cloud_event)
