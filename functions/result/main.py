"""Entry point of the result function for functions-framework (`FUNCTION_TARGET=result`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.result import handler
from ocf.functions.runtime.function import Function

function = Function(handler.result)


@functions_framework.aio.http
async def result(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.result.handler`."""
    return await function.respond(request)
