"""Entry point of the cleanup function for functions-framework (`FUNCTION_TARGET=cleanup`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.cleanup import handler
from ocf.functions.runtime.function import Function

function = Function(handler.cleanup)


@functions_framework.aio.http
async def cleanup(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.cleanup.handler`."""
    return await function.respond(request)
