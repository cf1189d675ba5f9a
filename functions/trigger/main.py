"""Entry point of the trigger function for functions-framework (`FUNCTION_TARGET=trigger`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.runtime.function import Function
from ocf.functions.trigger import handler

function = Function(handler.trigger)


@functions_framework.aio.http
async def trigger(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.trigger.handler`."""
    return await function.respond(request)
