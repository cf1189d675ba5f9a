"""Entry point of the cancel function for functions-framework (`FUNCTION_TARGET=cancel`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.cancel import handler
from ocf.functions.runtime.function import Function

function = Function(handler.cancel)


@functions_framework.aio.http
async def cancel(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.cancel.handler`."""
    return await function.respond(request)
