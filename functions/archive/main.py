"""Entry point of the archive function for functions-framework (`FUNCTION_TARGET=archive`)."""

from __future__ import annotations

import asyncio

import functions_framework.aio
import structlog
from starlette.requests import Request
from starlette.responses import Response

from ocf.functions.archive import handler
from ocf.functions.archive.scratch_folders import sweep
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.function import Function

log = structlog.get_logger()


class Archive(Function):
    """The archive function; its start removes scratch folders of earlier processes."""

    async def start(self, deps: Dependencies) -> None:
        """Remove the folders, then take the dependencies."""
        if removed := await asyncio.to_thread(sweep):
            log.info("leftovers removed", action="archive.leftovers_removed", folders=removed)
        await super().start(deps)


function = Archive(handler.archive)


@functions_framework.aio.http
async def archive(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.archive.handler`."""
    return await function.respond(request)
