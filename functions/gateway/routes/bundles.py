"""Routes of bundles: export of an archived execution, import into a project."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from ocf.events.refs import ExecutionRef
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.auth import Principal
from ocf.functions.gateway.bundles.contents import BUNDLE_BYTES, BadBundle
from ocf.functions.gateway.bundles.exporting import export
from ocf.functions.gateway.bundles.importing import check, discard, store_checked
from ocf.functions.gateway.context import AskedProject, Caller, Execution, Gw, too_large
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute
from ocf.functions.gateway.routes.downloads import start_stream

router = APIRouter(tags=["bundles"], route_class=StrictRoute)

MEDIA_TYPE = "application/x-tar"
#: Imports and exports at once, of one caller and of all: each holds disk, or events in memory.
_OF_ONE, _OF_ALL = 1, 8
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


@router.get(
    "/tasks/{execution_id}/bundle",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def bundle(gateway: Gw, caller: Caller, found: Execution) -> Response:
    """Return the execution as one file: archive, recording and input. 409 until it is archived."""
    if found.record is None or not found.record.archived:
        raise Problem(409, "not-archived", f"execution {found.execution} is not archived", headers={"Retry-After": "2"})
    try:
        with _turn(caller):
            pieces = await start_stream(export(gateway.deps.store, ExecutionRef(found.project, found.execution)))
    except BadBundle as error:
        raise Problem(409, "too-large", str(error)) from None
    name = f'attachment; filename="{found.execution}.ocf.tar"'
    return StreamingResponse(pieces, 200, {"Cache-Control": "no-store", "Content-Disposition": name}, MEDIA_TYPE)


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
    """Write the body to a file; each piece must arrive within `seconds`."""
    size, pieces = 0, request.stream()
    with path.open("xb") as file:
        try:
            while True:
                async with asyncio.timeout(seconds):
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
