"""Routes of executions: submit, show, list, cancel, delete, reply, and viewer credentials."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ocf.events import subjects
from ocf.events.base_model import ExecutionId, SessionId
from ocf.events.command_payloads import Cancel, Cleanup, PushResult, Reply
from ocf.events.errors import Conflict
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.lifecycle import State
from ocf.functions.database.reading import Filter
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Execution, Gateway, Gw, Trace, caller_of, gateway_of
from ocf.functions.gateway.execution_listing import decode_cursor
from ocf.functions.gateway.problems import Problem, invalid
from ocf.functions.gateway.request_body import JSON, StrictRoute, Time, documented, read, read_optional
from ocf.functions.gateway.request_schemas import Answer, CancelTask, CleanupScope, ExecuteTask
from ocf.functions.gateway.sealed_secrets import seal_task

router = APIRouter(tags=["tasks"], route_class=StrictRoute)

_NAMESPACE = uuid.UUID("6f63662d-6964-656d-706f-74656e637931")
_DEFAULT_TIMEOUT = 3600
#: Labels of a task, and the characters of one as `key=value` (`ocf.events.command_payloads.Labels`).
_LABELS, _LABEL_LENGTH = 32, 63 + 1 + 256


_KEY_LENGTH = 255
_KEY = {
    "name": "idempotency-key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": _KEY_LENGTH},
    "description": "calls with the same key in the same project are the same execution",
}


@router.post(
    "/tasks/execute",
    status_code=202,
    response_model=response_schemas.Submitted,
    openapi_extra={"parameters": [_KEY], **documented(ExecuteTask)},
)
async def execute(request: Request) -> Response:
    """Submit a task. Answers 202 once the bus stores it.

    With an `Idempotency-Key` (or an `execution_id` of your own) the call may be repeated: the same body returns the
    same execution, another body 409.
    """
    # The most frequent call: the framework's dependencies would take a third of its CPU time.
    gateway = await gateway_of(request)
    caller = await caller_of(request, gateway)
    idempotency_key = _idempotency_key(request)
    body = await read(request, ExecuteTask)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    given = body.execution_id or (_id_of(project, idempotency_key) if idempotency_key else None)
    digest = _digest(body) if given else ""
    body = seal_task(body, project, gateway.deps.keyring)
    execution = given or str(uuid.uuid4())
    if given and await gateway.deps.bus.last(subjects.EVENTS, subjects.fact(project, given, "cleaned")) is not None:
        raise Problem(410, "deleted", f"execution {given} was deleted; use a new id or key")
    if given and (used := await gateway.ended.used(ExecutionRef(project, given))) is not None:
        _check_digest(execution, used.request_digest, digest)
        return submitted(project, execution, used.state)
    body = body.model_copy(update={"execution_id": execution, "project_id": project})
    state = State.PENDING
    try:
        await gateway.submit(
            body,
            ExecutionRef(project, execution),
            request.headers.get("traceparent"),
            only_first=given is not None,
            **({"requestdigest": digest} if digest else {}),
        )
    except Conflict:
        state = await _earlier(gateway, project, execution, digest)
    return submitted(project, execution, state)


def submitted(project: str, execution: str, state: str, **more: str) -> Response:
    """Return the answer to a submit."""
    content = json.dumps({"execution_id": execution, "status": state, **more}).encode()
    return Response(content, 202, {"Location": f"/tasks/{execution}/status?project_id={project}"}, JSON)


def _check_digest(execution: str, before: str | None, digest: str) -> None:
    """Raise a problem (409) if an earlier call with this id had another body; without a digest that is unknown."""
    if before and before != digest:
        raise Problem(409, "already-used", f"execution {execution} was submitted before with another body")


@router.api_route("/tasks/execute", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def not_an_execution() -> Response:
    """Answer 405: `execute` is not an execution's id."""
    raise HTTPException(405)


def _idempotency_key(request: Request) -> str | None:
    """Return the header.

    Raises:
        Problem: 422, it is empty or too long.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _KEY_LENGTH:
        raise invalid([FieldError(field="idempotency-key", message=f"must be 1 to {_KEY_LENGTH} characters")])
    return key


def _id_of(project: str, key: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{project}\n{key}"))


def _digest(body: ExecuteTask) -> str:
    """Return a digest that equal calls share. Secrets are left out: sealing makes each different."""
    canonical = body.model_dump_json(
        by_alias=True,
        exclude_unset=True,
        exclude={
            "execution_id": True,
            "project_id": True,
            "model": {"api_key"},
            "workspace": {"token"},
            "mcp": {"__all__": {"headers"}},
            "secrets": {"__all__": {"value"}},
        },
    )
    return hashlib.sha256(json.dumps(json.loads(canonical), sort_keys=True).encode()).hexdigest()


async def _earlier(gateway: Gateway, project: str, execution: str, digest: str) -> State:
    """Return the state of the execution that an earlier call with this id made.

    Raises:
        Problem: 409, that call had another body.
    """
    submit = await gateway.deps.bus.last(subjects.COMMANDS, subjects.command("submit", project, execution))
    _check_digest(execution, submit.headers.get("ce-requestdigest") if submit is not None else None, digest)
    record = await gateway.record(project, execution)
    return record.state if record is not None else State.PENDING


@router.get("/tasks", response_model=response_schemas.TaskPage)
async def history(
    gateway: Gw,
    caller: Caller,
    project_id: AskedProject,
    status: Annotated[list[State] | None, Query(max_length=len(State), description="any of these")] = None,
    label: Annotated[
        list[Annotated[str, StringConstraints(max_length=_LABEL_LENGTH)]] | None,
        Query(max_length=_LABELS, description="`key` or `key=value`; all of them"),
    ] = None,
    since: Annotated[Time | None, Query(description="submitted at or after")] = None,
    until: Annotated[Time | None, Query(description="submitted before")] = None,
    session_id: SessionId | None = None,
    task_id: Annotated[str | None, Query(max_length=200)] = None,
    rerun_of: Annotated[ExecutionId | None, Query(description="the execution that they run again")] = None,
    q: Annotated[str | None, Query(max_length=200, description="beginnings of words of title and result")] = None,
    id_prefix: Annotated[str, Query(max_length=36, description="beginning of the execution's id")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=400, description="`next` of the page before")] = None,
) -> Response:
    """List executions, newest first: of the named project, or of all the caller may read."""
    projects = frozenset({caller.check(project_id)}) if project_id is not None else caller.projects
    query = Filter(
        projects,
        frozenset(status or ()),
        tuple(_label(one) for one in label or ()),
        since,
        until,
        session_id,
        task_id,
        q or None,
        id_prefix,
        rerun_of=rerun_of,
    )
    page = await gateway.listing.page(query, limit, decode_cursor(cursor) if cursor else None)
    return Response(page.model_dump_json(), 200, {"Cache-Control": "no-store"}, JSON)


def _label(text: str) -> tuple[str, str | None]:
    key, separator, value = text.partition("=")
    return key, value if separator else None


@router.get("/tasks/{execution_id}/status", response_model=response_schemas.TaskStatus)
async def status(gateway: Gw, found: Execution) -> Response:
    """Return the state of an execution, without its output."""
    record = found.known(_DEFAULT_TIMEOUT)
    view = response_schemas.TaskStatus.of(record, await gateway.listing.queue_position(record))
    return Response(view.model_dump_json(), 200, {"Cache-Control": "no-store"}, JSON)


@router.post(
    "/tasks/{execution_id}/cancel",
    status_code=202,
    response_model=response_schemas.Accepted,
    openapi_extra=documented(CancelTask, required=False),
)
async def cancel(
    request: Request, gateway: Gw, caller: Caller, found: Execution, trace: Trace
) -> response_schemas.Accepted:
    """Cancel an execution in any state. For one that has ended, the state is returned and nothing else happens."""
    body = await read_optional(request, CancelTask)
    if not found.ended:
        command = Cancel(
            execution_id=found.execution,
            project_id=found.project,
            why=body.why if body else None,
            requested_by=caller.name,
        )
        await gateway.publish("dev.ocf.task.cancel.v1", command, trace)
    return response_schemas.Accepted(execution_id=found.execution, status=found.state)


@router.post("/tasks/{execution_id}/result", status_code=202, response_model=response_schemas.Accepted)
async def result(gateway: Gw, caller: Caller, found: Execution, trace: Trace) -> response_schemas.Accepted:
    """Push a refused result (`result_rejected`) again, from the archive; 409 for an execution without one."""
    if found.record is None or not found.ended or found.record.publishing is None:
        raise Problem(409, "no-result", "the execution has no result that was refused")
    command = PushResult(execution_id=found.execution, project_id=found.project, requested_by=caller.name)
    await gateway.publish("dev.ocf.task.result.v1", command, trace)
    return response_schemas.Accepted(execution_id=found.execution, status=found.state)


@router.delete("/tasks/{execution_id}", status_code=202, response_model=response_schemas.Accepted)
async def delete(
    gateway: Gw,
    caller: Caller,
    found: Execution,
    trace: Trace,
    scope: Annotated[CleanupScope, Query(description="`workspace` keeps record, output and archive")] = "everything",
) -> response_schemas.Accepted:
    """Delete output, record, archive and workspace of an execution. A running one is ended first."""
    command = Cleanup(execution_id=found.execution, project_id=found.project, scope=scope, requested_by=caller.name)
    await gateway.publish("dev.ocf.task.cleanup.v1", command, trace)
    return response_schemas.Accepted(execution_id=found.execution, status=found.state)


@router.post(
    "/tasks/{execution_id}/replies/{request_id}",
    status_code=202,
    response_model=response_schemas.ReplyAccepted,
    openapi_extra=documented(Answer),
)
async def reply(
    request: Request,
    gateway: Gw,
    caller: Caller,
    found: Execution,
    trace: Trace,
    request_id: Annotated[str, Path(min_length=1, max_length=200)],
) -> response_schemas.ReplyAccepted:
    """Answer a request of the agent (`waiting_for` in the status). 409 once the execution has ended."""
    body = await read(request, Answer)
    if found.ended:
        raise Problem(409, "ended", f"the execution is {found.state}: no request is pending")
    command = Reply(
        project_id=found.project,
        execution_id=found.execution,
        request_id=request_id,
        answer=body.answer,
        answered_by=caller.name,
    )
    await gateway.publish("dev.ocf.task.reply.v1", command, trace)
    return response_schemas.ReplyAccepted(execution_id=found.execution, request_id=request_id)


@router.post("/tasks/{execution_id}/token", response_model=response_schemas.ViewerToken)
async def token(request: Request, gateway: Gw, caller: Caller, found: Execution) -> dict[str, Any]:
    """Return short-lived credentials for this execution's live output over the NATS WebSocket."""
    settings, mint = gateway.settings, gateway.deps.mint_viewer
    ttl = _ttl(gateway, caller.expires_at)
    history_url = request.url_for("output", execution_id=found.execution)
    answer: dict[str, Any] = {
        "nats_ws": None,
        "jwt": "",
        "seed": "",
        "subject": subjects.live(found.project, found.execution),
        "history_url": str(history_url.include_query_params(project_id=found.project, format="ndjson")),
        "expires_at": gateway.deps.clock.now() + timedelta(seconds=ttl),
    }
    if mint is not None and settings.nats_ws_url is not None:
        credentials = mint(found.project, found.execution, ttl)
        expires_at = datetime.fromtimestamp(credentials.expires_at, UTC)
        given = {"jwt": credentials.jwt, "seed": credentials.seed, "expires_at": expires_at}
        answer |= {"nats_ws": settings.nats_ws_url, **given}
    return answer


def _ttl(gateway: Gateway, expires_at: float | None) -> int:
    """Return the lifetime of a viewer's token, which does not exceed that of the caller's."""
    if expires_at is None:
        return gateway.settings.viewer_ttl
    left = int(expires_at - gateway.deps.clock.now().timestamp())
    return max(1, min(gateway.settings.viewer_ttl, left))
