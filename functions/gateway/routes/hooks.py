"""Routes of hooks: create, list, rotate, delete. URL and secret are shown once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from pydantic import Field

from ocf.events.base_model import Model, ProjectId
from ocf.events.fact_payloads import FieldError
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gateway, Gw
from ocf.functions.gateway.inbox.hook_store import HookKind, Hooks, unknown
from ocf.functions.gateway.problems import check_count, invalid
from ocf.functions.gateway.request_body import StrictRoute, documented, read
from ocf.functions.gateway.routes.events import Project, Source

router = APIRouter(tags=["hooks"], route_class=StrictRoute)


#: Hooks of a project.
MAX_HOOKS = 100


class CreateHook(Model):
    """A hook of a project. `source` names one of several Knative sources; for others it is the kind."""

    kind: HookKind
    project_id: ProjectId | None = None
    source: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] | None = None


class NewHook(response_schemas.View):
    """A hook with its secret, which is not shown again. A Knative hook has it in the URL."""

    kind: str
    project_id: str
    url: str
    secret: str | None


class SecretTimes(response_schemas.View):
    """When a secret of a hook was made, and when it expires: one that was rotated does."""

    created_at: datetime
    expires_at: datetime | None


class HookView(response_schemas.View):
    """A hook without its secrets, of which the latest is first."""

    kind: HookKind
    source: str
    project_id: str
    secrets: list[SecretTimes]


class HookList(response_schemas.View):
    """The hooks of a project, without their secrets."""

    hooks: list[HookView]


@router.post("/hooks", status_code=201, response_model=NewHook, openapi_extra=documented(CreateHook))
async def create(request: Request, gateway: Gw, caller: Caller) -> NewHook:
    """Create a hook; 409 when the project has one of this source."""
    body = await read(request, CreateHook)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    if body.source is not None and body.kind != "knative":
        raise invalid([FieldError(field="source", message="is for kind knative only")])
    check_count(project, "hooks", [one.source for one in await _hooks(gateway).list_of(project)], None, MAX_HOOKS)
    source = body.source or body.kind
    return _made(request, project, body.kind, source, await _hooks(gateway).create(project, body.kind, source))


@router.get("/hooks", response_model=HookList)
async def hooks(gateway: Gw, caller: Caller, project_id: AskedProject) -> dict[str, Any]:
    """List the hooks of a project, and when their secrets were made and expire."""
    found = await _hooks(gateway).list_of(caller.project_or(project_id, gateway.settings.default_project))
    hidden = {"secrets": {"__all__": {"sealed", "sha256"}}}
    return {"hooks": [hook.model_dump(mode="json", exclude=hidden) for hook in found]}


@router.post("/hooks/{project}/{source}/rotate", status_code=201, response_model=NewHook)
async def rotate(request: Request, gateway: Gw, caller: Caller, project: Project, source: Source) -> NewHook:
    """Make a new secret. The one before it stays valid for a day."""
    hook, secret = await _hooks(gateway).rotate(caller.check(project), source)
    return _made(request, project, hook.kind, source, secret)


@router.delete("/hooks/{project}/{source}", status_code=202, response_model=dict[str, str])
async def delete(gateway: Gw, caller: Caller, project: Project, source: Source) -> dict[str, str]:
    """Remove a hook; its secrets are refused from now on."""
    if await _hooks(gateway).get(caller.check(project), source) is None:
        raise unknown(project, source)
    await _hooks(gateway).delete(project, source)
    return {"project_id": project, "source": source}


def _hooks(gateway: Gateway) -> Hooks:
    return Hooks(gateway.deps.triggers, gateway.deps.keyring, gateway.deps.clock)


def _made(request: Request, project: str, kind: str, source: str, secret: str) -> NewHook:
    base = str(request.base_url).rstrip("/")
    if kind == "knative":
        url = f"{base}/events/{project}/{source}?{urlencode({'token': secret})}"
        return NewHook(kind=kind, project_id=project, url=url, secret=None)
    return NewHook(kind=kind, project_id=project, url=f"{base}/hooks/{project}/{source}", secret=secret)
