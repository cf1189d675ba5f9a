"""Entry point of the history function for functions-framework (`FUNCTION_TARGET=history`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.history import handler
from ocf.functions.runtime.function import Function

function = Function(handler.history)


@functions_framework.aio.http
async def history(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.history.handler`."""
    return await function.respond(request)
