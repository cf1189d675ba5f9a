"""Routes of bundles: export of an archived execution, import into a project."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ocf.events.execution_ref import ExecutionRef
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.auth import Principal
from ocf.functions.gateway.bundles.exporting import export
from ocf.functions.gateway.bundles.importing import check, discard, store_checked
from ocf.functions.gateway.bundles.tar_format import BUNDLE_BYTES, BadBundle
from ocf.functions.gateway.context import AskedProject, Caller, Execution, Gw, too_large
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute
from ocf.functions.gateway.routes.downloads import start_stream

router = APIRouter(tags=["bundles"], route_class=StrictRoute)

MEDIA_TYPE = "application/x-tar"
#: Imports and exports at once, of one caller and of all: each holds disk.
_OF_ONE, _OF_ALL = 1, 8
#: Bytes per second below which a bundle is given up, after a grace: a slow peer would hold its turn for days.
_RATE, _GRACE_SECONDS = 128 * 1024, 120.0
#: Paths whose body goes to a file.
STREAMED = frozenset(("/bundles",))


_UNDER_WAY: Counter[str] = Counter()


@contextmanager
def _turn(caller: Principal) -> Iterator[None]:
    """Count a bundle of `caller` that is made or taken. Raises Problem (429) over a limit."""
    if _UNDER_WAY[caller.allowance] >= _OF_ONE or _UNDER_WAY.total() >= _OF_ALL:
        raise Problem(429, "busy", "another bundle is under way; try again later", headers={"Retry-After": "5"})
    _UNDER_WAY[caller.allowance] += 1
    try:
        yield
    finally:
        _UNDER_WAY[caller.allowance] -= 1
        if not _UNDER_WAY[caller.allowance]:
            del _UNDER_WAY[caller.allowance]


class _Bundle(StreamingResponse):
    """A bundle that is under way until it is sent, or until its reader has gone or is too slow."""

    def __init__(self, pieces: AsyncIterator[bytes], name: str, turn: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
        super().__init__(pieces, 200, headers, MEDIA_TYPE)
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and end the turn."""
        async with self._turn, asyncio.timeout(_seconds(BUNDLE_BYTES)):
            await super().__call__(scope, receive, send)


def _seconds(size: int) -> float:
    """Return the seconds that `size` bytes may take on their way."""
    return _GRACE_SECONDS + size / _RATE


@router.get(
    "/tasks/{execution_id}/bundle",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def bundle(gateway: Gw, caller: Caller, found: Execution) -> Response:
    """Return the execution as one file: archive, recording and input. 409 until it is archived."""
    if found.record is None or not found.record.archived:
        raise Problem(409, "not-archived", f"execution {found.execution} is not archived", headers={"Retry-After": "2"})
    async with AsyncExitStack() as stack:
        stack.enter_context(_turn(caller))
        source = export(gateway.deps.store, ExecutionRef(found.project, found.execution))
        stack.push_async_callback(source.aclose)
        try:
            pieces = await start_stream(source)
        except BadBundle as error:
            raise Problem(409, "too-large", str(error)) from None
        return _Bundle(pieces, f"{found.execution}.ocf.tar", stack.pop_all())


@router.post(
    "/bundles",
    status_code=201,
    response_model=response_schemas.Imported,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_bundle(
    request: Request, gateway: Gw, caller: Caller, project_id: AskedProject
) -> response_schemas.Imported:
    """Take a bundle as an archived execution of the project, under a new id. 422 names what is wrong with it."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != MEDIA_TYPE:
        raise Problem(415, "unsupported-media-type", f"send the bundle as Content-Type: {MEDIA_TYPE}")
    with _turn(caller):
        folder = Path(tempfile.mkdtemp(prefix="ocf-bundle-"))
        try:
            await _receive(request, folder / "bundle.tar", gateway.settings.body_seconds)
            checked = await check(folder / "bundle.tar", folder, project)
            ref = await store_checked(gateway.deps.store, gateway.deps.history, checked)
        except BadBundle as error:
            raise Problem(422, "bad-bundle", str(error)) from None
        finally:
            await discard(folder)
    origin = f"{checked.index.project_id}/{checked.index.execution_id}"
    return response_schemas.Imported(execution_id=ref.execution, project_id=ref.project, imported_from=origin)


async def _receive(request: Request, path: Path, seconds: float) -> None:
    """Write the body to a file; each piece must arrive within `seconds`, and not slower than `_RATE` in all."""
    size, pieces = 0, request.stream()
    started = asyncio.get_running_loop().time()
    with path.open("xb") as file:
        try:
            while True:
                left = started + _seconds(size) - asyncio.get_running_loop().time()
                async with asyncio.timeout(min(seconds, left)):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                size += len(piece)
                if size > BUNDLE_BYTES:
                    raise too_large(BUNDLE_BYTES)
                await asyncio.to_thread(file.write, piece)
        except TimeoutError:
            raise Problem(408, "request-timeout", "the body did not arrive in time") from None
        except ClientDisconnect:
            raise Problem(400, "cut-off", "the body ends in the middle") from None
