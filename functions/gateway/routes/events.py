"""Routes of events of other systems: CloudEvents with a token, and webhooks with a signature."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from ocf.events import subjects
from ocf.events.envelope import Event, decode
from ocf.events.errors import InvalidEvent
from ocf.events.untrusted_json import INBOX, parse_json
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.auth import refused
from ocf.functions.gateway.context import AskedProject, Caller, Gateway, Gw, too_large
from ocf.functions.gateway.inbox.hook_store import Hook, HookKind, Hooks, unknown
from ocf.functions.gateway.inbox.publishing import decoded, publish
from ocf.functions.gateway.inbox.signatures import signed
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute, read_bytes
from ocf.functions.rules.forge_cloudevents import forge_event
from ocf.functions.rules.rulebook import RuleFailed, execution_id, view
from ocf.functions.rules.submit_publisher import was_submitted

router = APIRouter(tags=["events"], route_class=StrictRoute)

Project = Annotated[str, Path(pattern=subjects.PROJECT_PATTERN)]
Source = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
_NAMES = {"github": "x-github-event", "gitea": "x-gitea-event", "gitlab": "x-gitlab-event"}
_SHOWN = 50
#: Messages of the inbox that are read for the latest events of a project, further back until enough are found.
_WINDOWS = (500, 5_000, 50_000)


class Published(response_schemas.View):
    """202: the events are stored, each with the executions that its rules start unless a guard holds it back."""

    events: list[dict[str, Any]]


class LatestEvents(response_schemas.View):
    """The latest events of a project, newest first, each with every rule's decision by the rules of now."""

    events: list[dict[str, Any]]


@router.post("/events", status_code=202, response_model=Published)
async def events(request: Request, gateway: Gw, caller: Caller, project_id: AskedProject) -> dict[str, Any]:
    """Store CloudEvents (structured, binary or batched). Rules of the project start tasks from them."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    found = decoded(request.headers, await read_bytes(request))
    return await publish(gateway, project, "events", found)


@router.post("/events/{project}/{source}", status_code=202, response_class=Response)
async def knative(
    request: Request,
    gateway: Gw,
    project: Project,
    source: Source,
    token: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Store CloudEvents of a Knative Trigger, whose URI carries the token of `ocf hook create PROJECT knative`.

    The response has no body: a Broker takes one that is no CloudEvent for a failed delivery, and repeats the event.
    """
    hooks, hook = await _hook(request, gateway, project, source)
    if hook.kind != "knative" or not hooks.accepts(hook, token):
        raise refused("the token of the URI is not valid")
    found = decoded(request.headers, await read_bytes(request))
    await publish(gateway, project, source, found)
    return Response(status_code=202)


@router.post("/hooks/{project}/{source}", status_code=202, response_model=Published)
async def webhook(
    request: Request, gateway: Gw, project: Project, kind: Annotated[HookKind, Path(alias="source")]
) -> dict[str, Any]:
    """Store the event of a signed webhook of GitHub, GitLab, Gitea, or any sender of Standard Webhooks."""
    hooks, hook = await _hook(request, gateway, project, kind)
    headers = {name.lower(): value for name, value in request.headers.items()}
    body, now = await read_bytes(request), gateway.deps.clock.now()
    if hook.kind != kind or not signed(kind, hooks.signing_secrets(hook), headers, body, now.timestamp()):
        raise refused("the signature or its time is not valid")
    if headers.get("content-type", "").partition(";")[0].strip() == "application/x-www-form-urlencoded":
        raise Problem(415, "unsupported-media-type", "set the webhook's content type to application/json")
    event = _generic(project, headers, body, gateway) if kind == "generic" else None
    if event is None:
        payload = parse_json(body, INBOX, "body")
        event = forge_event(kind, headers.get(_NAMES[kind], ""), payload, body, now)  # type: ignore[arg-type]
    return await publish(gateway, project, kind, [event])


def _generic(project: str, headers: dict[str, str], body: bytes, gateway: Gateway) -> Event:
    """Return the event of a Standard Webhook: its CloudEvent, or one with the payload's type and the signed id."""
    if headers.get("content-type", "").startswith("application/cloudevents"):
        return decode(headers, body)
    payload = parse_json(body, INBOX, "body")
    type_ = payload.get("type") if isinstance(payload, dict) else None
    name = type_ if isinstance(type_, str) and type_.isascii() and type_.isprintable() and len(type_) < 200 else ""
    source, now = f"/hooks/{project}/generic", gateway.deps.clock.now()
    return Event(name or "webhook", source, headers["webhook-id"][:300], now, body)


async def _hook(request: Request, gateway: Gateway, project: str, source: str) -> tuple[Hooks, Hook]:
    """Return the hook of an unauthenticated call. Calls are counted by address; the body is charged to the hook.

    Raises:
        Problem: 404 unknown, 413 too large, 429 too many calls.
    """
    address = request.client.host if request.client else "unknown"
    gateway.limit.take(f"hook:{address}")
    request.state.allowance = f"hook:{project}/{source}"
    request.state.bodies, request.state.body_limit = gateway.unsigned_bodies, INBOX.bytes
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > INBOX.bytes:
        raise too_large(INBOX.bytes)
    hooks = Hooks(gateway.deps.triggers, gateway.deps.keyring, gateway.deps.clock)
    hook = await hooks.get(project, source)
    if hook is None:
        raise unknown(project, source)
    return hooks, hook


@router.get("/events", response_model=LatestEvents)
async def latest(gateway: Gw, caller: Caller, project_id: AskedProject) -> dict[str, Any]:
    """List the latest events of a project: which rule matched, with its execution, and why the others did not."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    wanted, bus = f"ocf.in.{project}.>", gateway.deps.bus
    last = await bus.last(subjects.INBOX, wanted)
    if last is None:
        return {"events": []}
    # First only their places: each may have the size of `INBOX`, and one is held at a time.
    found: deque[int] = deque(maxlen=_SHOWN)
    for window in _WINDOWS:
        start = max(0, last.sequence - window)
        found.clear()
        async for message in bus.history(subjects.INBOX, wanted, after=start):
            found.append(message.sequence)
        if len(found) == _SHOWN or start == 0:
            break
    explained: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
    async for message in bus.history(subjects.INBOX, wanted, after=found[0] - 1 if found else last.sequence):
        if found and message.sequence > found[-1]:
            break
        explained.appendleft(await _explained(gateway, project, message.headers, message.data))
    return {"events": list(explained)}


async def _explained(gateway: Gateway, project: str, headers: Any, data: bytes) -> dict[str, Any]:  # noqa: ANN401
    """Return an event of the inbox with the decision of each rule."""
    try:
        event = decode(headers, data)
        seen = view(event)
    except InvalidEvent as error:
        return {"id": "", "problem": str(error), "rules": []}
    decisions = []
    for rule in await gateway.rulebook.rules(project):
        await seen.pause()
        decision: dict[str, Any] = {"rule": rule.rule.name}
        try:
            decision["mismatch"] = rule.mismatch(seen)
        except RuleFailed as error:
            decision["problem"] = str(error)
        if decision.get("mismatch", "") is None:
            execution = execution_id(project, rule.rule.name, event)
            started = await was_submitted(gateway.deps.bus, project, execution)
            decision |= {"execution_id": execution, "started": started}
        decisions.append(decision)
    about = {name: seen.get(name) for name in ("id", "source", "type", "subject", "time")}
    return {**about, "rules": decisions}
