"""Sessions: create, list, look at, attach, detach, destroy."""

from __future__ import annotations

import json
import uuid
from typing import Any, Literal

from fastapi import APIRouter

from events import subjects
from events.errors import InvalidEvent
from events.facts import FieldError
from events.models import SessionAttach, SessionCommand, SessionDestroy, SessionDetach
from events.ports import Entry
from functions.gateway import views
from functions.gateway.auth import Principal
from functions.gateway.bodies import Attachment, CreateSession
from functions.gateway.core import AskedProject, Caller, Gateway, Gw, Trace
from functions.gateway.problems import Problem, invalid
from functions.gateway.secrets import seal_session

router = APIRouter(tags=["sessions"])


class SessionList(views.View):
    """The sessions of the caller's projects, newest first."""

    items: list[dict[str, Any]]


@router.post("/sessions", status_code=202, response_model=views.SessionAccepted)
async def create(gateway: Gw, caller: Caller, trace: Trace, body: CreateSession) -> views.SessionAccepted:
    """Begin a conversation with a workspace, empty or forked from a finished execution."""
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    session = body.session_id or str(uuid.uuid4())
    body = seal_session(body, project, gateway.deps.keyring)
    command = _Create(**dict(body) | {"project_id": project, "session_id": session, "requested_by": caller.name})
    await gateway.publish("dev.ocf.session.create.v1", command, trace)
    return views.SessionAccepted(session_id=session, status="creating")


class _Create(CreateSession):
    """`events.models.SessionCreate`, its secrets sealed."""

    requested_by: str


@router.get("/sessions", response_model=SessionList)
async def sessions(gateway: Gw, caller: Caller, project_id: AskedProject) -> SessionList:
    """The sessions of the named project, or of all the caller may read."""
    projects = [caller.check(project_id)] if project_id is not None else caller.projects
    filters = ["*.*"] if projects is None else [f"{project}.*" for project in projects]
    items = [_view(entry) for one in filters async for entry in gateway.deps.sessions.entries(one)]
    return SessionList(items=sorted(items, key=lambda item: str(item.get("created_at", "")), reverse=True))


@router.get("/sessions/{session_id}", response_model=dict[str, Any])
async def session(gateway: Gw, caller: Caller, session_id: str, project_id: AskedProject) -> dict[str, Any]:
    """One session."""
    _, entry = await _find(gateway, caller, session_id, project_id)
    return _view(entry)


@router.post("/sessions/{session_id}/attach", status_code=202, response_model=views.SessionAccepted)
async def attach(
    gateway: Gw, caller: Caller, trace: Trace, session_id: str, project_id: AskedProject, body: Attachment | None = None
) -> views.SessionAccepted:
    """Somebody watches, and may send follow-ups."""
    project, _ = await _find(gateway, caller, session_id, project_id)
    client = (body.client_id if body else None) or caller.name
    command = SessionAttach(project_id=project, session_id=session_id, requested_by=caller.name, client_id=client)
    return await _say(gateway, "attach", command, "attaching", trace)


@router.post("/sessions/{session_id}/detach", status_code=202, response_model=views.SessionAccepted)
async def detach(
    gateway: Gw, caller: Caller, trace: Trace, session_id: str, project_id: AskedProject, body: Attachment | None = None
) -> views.SessionAccepted:
    """That somebody has left; the session stays."""
    project, _ = await _find(gateway, caller, session_id, project_id)
    client = (body.client_id if body else None) or caller.name
    command = SessionDetach(project_id=project, session_id=session_id, requested_by=caller.name, client_id=client)
    return await _say(gateway, "detach", command, "detaching", trace)


@router.delete("/sessions/{session_id}", status_code=202, response_model=views.SessionAccepted)
async def destroy(
    gateway: Gw, caller: Caller, trace: Trace, session_id: str, project_id: AskedProject
) -> views.SessionAccepted:
    """Remove every trace of it."""
    project, _ = await _find(gateway, caller, session_id, project_id)
    command = SessionDestroy(project_id=project, session_id=session_id, requested_by=caller.name)
    return await _say(gateway, "destroy", command, "destroying", trace)


Doing = Literal["creating", "attaching", "detaching", "destroying"]


async def _say(
    gateway: Gateway, verb: str, command: SessionCommand, doing: Doing, trace: str | None
) -> views.SessionAccepted:
    await gateway.publish(f"dev.ocf.session.{verb}.v1", command, trace)
    return views.SessionAccepted(session_id=command.session_id, status=doing)


async def _find(gateway: Gateway, caller: Principal, session: str, asked: str | None) -> tuple[str, Entry]:
    """The session in the project the call names, or in the caller's that has it.

    Raises:
        Problem: 404 unknown, 403 not the caller's project, 422 not an id.
    """
    try:
        subjects.check_id(session, "session_id")
    except InvalidEvent:
        raise invalid([FieldError(field="session_id", message="must be a lower-case UUID")]) from None
    wanted = [f"{caller.check(asked)}.{session}"] if asked is not None else [f"*.{session}"]
    for one in wanted:
        async for entry in gateway.deps.sessions.entries(one):
            project = entry.key.split(".", 1)[0]
            if caller.may(project):
                return project, entry
    raise Problem(404, "unknown-session", f"no session {session} in the projects you may read")


def _view(entry: Entry) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(entry.value)
    record.pop("outbox", None)  # facts on their way: of no use to a caller
    project, _, session = entry.key.partition(".")
    return {"session_id": session, "project_id": project} | record
