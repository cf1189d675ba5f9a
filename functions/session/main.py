"""Entry point of the session function for functions-framework (`FUNCTION_TARGET=session`)."""

from __future__ import annotations

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.runtime.function import Function
from ocf.functions.session import handler

function = Function(handler.session)


@functions_framework.aio.http
async def session(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.session.handler`."""
    return await function.respond(request)
