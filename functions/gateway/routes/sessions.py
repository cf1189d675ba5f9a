"""Routes of sessions: create, list, show, attach, detach, destroy."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError

from ocf.events.base_model import SessionId
from ocf.events.command_payloads import SessionAttach, SessionCommand, SessionDestroy, SessionDetach
from ocf.events.envelope import decode, parse
from ocf.events.execution_ref import SessionRef
from ocf.events.fact_payloads import SessionCreated, SessionRejected
from ocf.events.ports import Entry, Message
from ocf.events.session_record import Session
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gateway, Gw, Trace
from ocf.functions.gateway.execution_listing import decode_cursor, encode_cursor
from ocf.functions.gateway.problems import Problem, invalid
from ocf.functions.gateway.request_body import StrictRoute, documented, read, read_optional
from ocf.functions.gateway.request_schemas import AttachSession, CreateSession
from ocf.functions.gateway.sealed_secrets import seal_session

log = structlog.get_logger()
router = APIRouter(tags=["sessions"], route_class=StrictRoute)

#: Seconds that a create waits for its session. The function may have to start first; the command is stored anyway.
CREATE_SECONDS = 5.0


async def _find_session(session_id: SessionId, gateway: Gw, caller: Caller, project_id: AskedProject) -> Entry:
    """Return the session in the requested project, or in the caller's project that has it.

    Raises:
        Problem: 404 unknown, 403 not the caller's project.
    """
    project = caller.check(project_id) if project_id is not None else caller.only_project
    if project is None:
        async for entry in gateway.deps.sessions.entries(f"*.{session_id}"):
            if caller.may(entry.key.split(".", 1)[0]):
                return entry
    elif (found := await gateway.deps.sessions.get(SessionRef(project, session_id).record_key)) is not None:
        return found
    raise Problem(404, "unknown-session", f"no session {session_id} in the projects you may read")


Named = Annotated[Entry, Depends(_find_session)]


class SessionList(response_schemas.View):
    """One page of the sessions, newest first. `next` is the `cursor` of the next page."""

    items: list[dict[str, Any]]
    next: str | None = None


@router.post(
    "/sessions",
    status_code=202,
    response_model=response_schemas.SessionAccepted,
    openapi_extra=documented(CreateSession),
)
async def create(request: Request, gateway: Gw, caller: Caller, trace: Trace) -> response_schemas.SessionAccepted:
    """Create a conversation with a workspace, empty or forked from a finished execution.

    Answers `open` once it exists, 422 when it is rejected, and `creating` when neither is known within 5 s.
    """
    body = await read(request, CreateSession)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    session = body.session_id or str(uuid.uuid4())
    body = seal_session(body, project, gateway.deps.keyring)
    command = _Create(**dict(body) | {"project_id": project, "session_id": session, "requested_by": caller.name})
    async with gateway.deps.bus.listen(f"ocf.evt.{project}.{session}.*") as facts:
        event_id = await gateway.publish("dev.ocf.session.create.v1", command, trace)
        created = await _created(facts, event_id)
    return response_schemas.SessionAccepted(session_id=session, status="open" if created else "creating")


async def _created(facts: AsyncIterator[Message], event_id: str) -> bool:
    """Return whether the command's session was created; False when the result is unknown in time.

    Raises:
        Problem: 422, it was rejected.
    """
    try:
        async with asyncio.timeout(CREATE_SECONDS):
            async for message in facts:
                fact = decode(message.headers, message.data)
                if fact.extensions.get("causationid") != event_id:
                    continue
                data = parse(fact)
                if isinstance(data, SessionRejected):
                    raise invalid(data.errors)
                return isinstance(data, SessionCreated)
    except TimeoutError:
        return False
    return False


class _Create(CreateSession):
    """Fields of `ocf.events.command_payloads.SessionCreate`, with secrets sealed."""

    requested_by: str


@router.get("/sessions", response_model=SessionList)
async def sessions(
    gateway: Gw,
    caller: Caller,
    project_id: AskedProject,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(max_length=400, description="`next` of the page before")] = None,
) -> SessionList:
    """List the sessions of the named project, or of all the caller may read, newest first."""
    projects = frozenset({caller.check(project_id)}) if project_id is not None else caller.projects
    after = decode_cursor(cursor) if cursor else None
    found = await gateway.deps.history.session_page(projects, limit + 1, after)
    refs = [ref for ref, _ in found[:limit]]
    if after is None:
        recent = gateway.listing.sessions.times()
        refs += [ref for ref in recent if ref not in refs and (projects is None or ref.project in projects)]
    # Everything but the order is in the records; one without a record has been destroyed.
    entries = await asyncio.gather(*(gateway.deps.sessions.get(ref.record_key) for ref in refs))
    items = [_view(entry) for entry in entries if entry is not None]
    last = found[limit - 1] if len(found) > limit else None
    return SessionList(
        items=sorted(items, key=lambda item: str(item.get("created_at", "")), reverse=True),
        next=encode_cursor((last[1], last[0].session, last[0].project)) if last else None,
    )


@router.get("/sessions/{session_id}", response_model=dict[str, Any])
async def session(named: Named) -> dict[str, Any]:
    """Return one session."""
    return _view(named)


@router.post(
    "/sessions/{session_id}/attach",
    status_code=202,
    response_model=response_schemas.SessionAccepted,
    openapi_extra=documented(AttachSession, required=False),
)
async def attach(
    request: Request, gateway: Gw, caller: Caller, trace: Trace, named: Named
) -> response_schemas.SessionAccepted:
    """Attach a client, which watches and may send follow-ups."""
    body = await read_optional(request, AttachSession)
    client = (body.client_id if body else None) or caller.name
    command = SessionAttach(**_ids(named), requested_by=caller.name, client_id=client)
    return await _publish(gateway, "attach", command, "attaching", trace)


@router.post(
    "/sessions/{session_id}/detach",
    status_code=202,
    response_model=response_schemas.SessionAccepted,
    openapi_extra=documented(AttachSession, required=False),
)
async def detach(
    request: Request, gateway: Gw, caller: Caller, trace: Trace, named: Named
) -> response_schemas.SessionAccepted:
    """Detach a client; the session stays."""
    body = await read_optional(request, AttachSession)
    client = (body.client_id if body else None) or caller.name
    command = SessionDetach(**_ids(named), requested_by=caller.name, client_id=client)
    return await _publish(gateway, "detach", command, "detaching", trace)


@router.delete("/sessions/{session_id}", status_code=202, response_model=response_schemas.SessionAccepted)
async def destroy(gateway: Gw, caller: Caller, trace: Trace, named: Named) -> response_schemas.SessionAccepted:
    """Remove the session and all of its data."""
    command = SessionDestroy(**_ids(named), requested_by=caller.name)
    return await _publish(gateway, "destroy", command, "destroying", trace)


PendingState = Literal["creating", "attaching", "detaching", "destroying"]


async def _publish(
    gateway: Gateway, verb: str, command: SessionCommand, status: PendingState, trace: str | None
) -> response_schemas.SessionAccepted:
    await gateway.publish(f"dev.ocf.session.{verb}.v1", command, trace)
    return response_schemas.SessionAccepted(session_id=command.session_id, status=status)


def _ids(entry: Entry) -> dict[str, str]:
    project, _, session = entry.key.partition(".")
    return {"project_id": project, "session_id": session}


def _view(entry: Entry) -> dict[str, Any]:
    try:
        return Session.read(entry.value).model_dump(mode="json")
    except ValidationError as error:
        log.error("unreadable session", action="gateway.session_unreadable", key=entry.key, errors=error.error_count())
        raw: dict[str, Any] = json.loads(entry.value)
        return {**_ids(entry), **raw}
