"""Entry point of the submit function for functions-framework (`FUNCTION_TARGET=submit`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.runtime.function import Function
from ocf.functions.submit import handler

function = Function(handler.submit)


@functions_framework.aio.http
async def submit(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.submit.handler`."""
    return await function.respond(request)
