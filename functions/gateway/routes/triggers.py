"""Routes of rules: store, list, show, delete, test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.responses import Response

from ocf.events.fact_payloads import FieldError
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gateway, Gw
from ocf.functions.gateway.gateway_deps import Sealer
from ocf.functions.gateway.inbox.publishing import decoded
from ocf.functions.gateway.problems import Problem, check_count, explain, invalid
from ocf.functions.gateway.request_body import JSON, StrictRoute, documented, read, read_bytes
from ocf.functions.gateway.request_schemas import ExecuteTask
from ocf.functions.gateway.sealed_secrets import seal_task
from ocf.functions.rules import poll_schedule
from ocf.functions.rules.rule import InvalidRule, Rule, compile_condition, compile_texts, replace_texts
from ocf.functions.rules.rule_state import RuleStates
from ocf.functions.rules.rulebook import MAX_RULES, CompiledRule, execution_id, view

router = APIRouter(tags=["triggers"], route_class=StrictRoute)

Name = Annotated[str, Path(max_length=63, pattern=r"^[a-z0-9-]+$")]


class RuleList(response_schemas.View):
    """The rules of a project, each with its matches."""

    triggers: list[dict[str, Any]]


class Submits(response_schemas.View):
    """The submits that a rule would publish for an event; empty with the reason when it does not match."""

    submits: list[dict[str, Any]]
    mismatch: str | None = None


@router.post("/triggers", status_code=201, response_model=dict[str, Any], openapi_extra=documented(Rule))
async def put(request: Request, gateway: Gw, caller: Caller) -> Response:
    """Store a rule; 201 when it is new, 200 when it replaces one of the same name. 422 names each wrong field."""
    body = await read(request, Rule)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    task = checked_task(body.task, project, gateway.deps.keyring)
    try:
        compile_condition(body)
    except InvalidRule as error:
        raise invalid(error.errors) from None
    rules = await gateway.rulebook.rules(project)
    check_count(project, "rules", [one.rule.name for one in rules], body.name, MAX_RULES)
    rule = body.model_copy(update={"task": task, "project_id": project})
    new = await gateway.rulebook.put(rule, project)
    await poll_schedule.arm(gateway.deps.bus, rule, project, gateway.deps.clock.now())
    return Response(rule.model_dump_json(exclude_unset=True), 201 if new else 200, media_type=JSON)


def checked_task(task: Mapping[str, Any], project: str, keyring: Sealer | None) -> dict[str, Any]:
    """Return the task of a rule or schedule with its secrets sealed.

    Raises:
        Problem: 422, a template or a field is wrong; 503, a secret cannot be sealed.
    """
    given = [name for name in ("execution_id", "project_id") if name in task]
    if given:
        raise invalid([FieldError(field=f"task.{given[0]}", message="comes from the event; leave it out")])
    try:
        texts = compile_texts(task)
        example = replace_texts(task, lambda path, _: texts[path].example or "x")
        parsed = ExecuteTask.model_validate_json(json.dumps(example), strict=True)
    except InvalidRule as error:
        raise invalid(error.errors) from None
    except ValidationError as error:
        found = explain(error.errors(include_url=False, include_input=False, include_context=False), dict(task))
        raise invalid([one.model_copy(update={"field": f"task.{one.field}"}) for one in found]) from None
    sealed = seal_task(parsed, project, keyring).model_dump(mode="json", by_alias=True, exclude_unset=True)
    originals: dict[str, str] = {}
    replace_texts(task, lambda path, text: originals.setdefault(path, text))
    return replace_texts(sealed, lambda path, text: originals.get(path, text), every=True)


@router.get("/triggers", response_model=RuleList)
async def rules(gateway: Gw, caller: Caller, project_id: AskedProject) -> dict[str, Any]:
    """List the rules of a project, with their matches and the events that a guard held back."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    return {"triggers": [await _shown(gateway, rule) for rule in await gateway.rulebook.rules(project)]}


@router.get("/triggers/{name}", response_model=dict[str, Any])
async def rule(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, Any]:
    """Return one rule."""
    return await _shown(gateway, await _named(gateway, caller.project_or(project_id, _default(gateway)), name))


@router.delete("/triggers/{name}", status_code=202, response_model=dict[str, str])
async def delete(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, str]:
    """Remove a rule. Executions that it started go on."""
    project = caller.project_or(project_id, _default(gateway))
    if not await gateway.rulebook.delete(project, name):
        raise _unknown(name)
    await poll_schedule.disarm(gateway.deps.bus, project, name)
    return {"name": name}


@router.post("/triggers/{name}/test", response_model=Submits)
async def test(request: Request, gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, Any]:
    """Return the submits that the rule would publish for a CloudEvent; nothing is published, no guard is asked."""
    found = await _named(gateway, caller.project_or(project_id, _default(gateway)), name)
    submits, mismatch = [], None
    for event in decoded(request.headers, await read_bytes(request)):
        seen = view(event)
        mismatch = found.mismatch(seen)
        if mismatch is None:
            made = found.submit(seen, execution_id(found.project, name, event))
            submits.append(made.model_dump(mode="json", by_alias=True, exclude_defaults=True))
        await seen.pause()
    return {"submits": submits, "mismatch": mismatch}


def _default(gateway: Gateway) -> str:
    return gateway.settings.default_project


async def _named(gateway: Gateway, project: str, name: str) -> CompiledRule:
    found = next((one for one in await gateway.rulebook.rules(project) if one.rule.name == name), None)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> Problem:
    return Problem(404, "unknown-trigger", f"no rule {name} in this project")


async def _shown(gateway: Gateway, found: CompiledRule) -> dict[str, Any]:
    state = await RuleStates(gateway.deps.triggers, found.project).read(found.rule.name)
    shown: dict[str, Any] = found.rule.model_dump(mode="json", exclude_unset=True)
    shown |= state.model_dump(mode="json", include={"matched", "last_event", "refused"})
    if found.rule.poll is not None:
        polled = await poll_schedule.read_state(gateway.deps.triggers, found.project, found.rule.name)
        shown["polled"] = None if polled is None else polled.model_dump(mode="json", include={"polled_at", "problem"})
    return shown | ({"problem": found.broken} if found.broken else {})
