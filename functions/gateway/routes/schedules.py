"""Routes of schedules: create, list, show, pause, resume, delete."""

from __future__ import annotations

from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ocf.events.errors import NotYetKnown
from ocf.events.fact_payloads import FieldError
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gateway, Gw
from ocf.functions.gateway.problems import Problem, check_count, invalid
from ocf.functions.gateway.request_body import JSON, StrictRoute, documented, read
from ocf.functions.gateway.routes.triggers import Name, checked_task
from ocf.functions.rules.cron import Cron, InvalidCron
from ocf.functions.rules.rule_state import EventRef, RuleStates
from ocf.functions.rules.schedule_store import Overlap, Schedule, Schedules, StoredSchedule, state_name

router = APIRouter(tags=["schedules"], route_class=StrictRoute)

_UPCOMING = 5
#: Schedules of a project.
MAX_SCHEDULES = 500


class ScheduleView(response_schemas.View):
    """A schedule with its next ticks, its last one, and the latest that were skipped or missed."""

    name: str
    project_id: str | None
    cron: str
    timezone: str
    overlap: Overlap
    task: dict[str, Any]
    next: str | None
    upcoming: list[str]
    last: EventRef | None
    paused: bool
    refused: list[EventRef]


class ScheduleList(response_schemas.View):
    """The schedules of a project, each with its next and last ticks."""

    schedules: list[ScheduleView]


@router.post("/schedules", status_code=201, response_model=dict[str, Any], openapi_extra=documented(Schedule))
async def put(request: Request, gateway: Gw, caller: Caller) -> Response:
    """Store a schedule; 201 when it is new, 200 when it replaces one of the same name."""
    body = await read(request, Schedule)
    project = caller.project_or(body.project_id, gateway.settings.default_project)
    try:
        cron = Cron(body.cron, body.timezone)
    except InvalidCron as error:
        field = "timezone" if "time zone" in str(error) else "cron"
        raise invalid([FieldError(field=field, message=str(error))]) from None
    if next(cron.after(gateway.deps.clock.now()), None) is None:
        raise invalid([FieldError(field="cron", message="is never due")])
    task = checked_task(body.task, project, gateway.deps.keyring)
    schedule = body.model_copy(update={"task": task, "project_id": project})
    found = await _schedules(gateway).list_of(project)
    check_count(project, "schedules", [one.schedule.name for one in found], body.name, MAX_SCHEDULES)
    new = await _schedules(gateway).put(schedule, project, gateway.deps.clock.now())
    return Response(schedule.model_dump_json(exclude_unset=True), 201 if new else 200, media_type=JSON)


@router.get("/schedules", response_model=ScheduleList)
async def schedules(gateway: Gw, caller: Caller, project_id: AskedProject) -> dict[str, Any]:
    """List the schedules of a project: next runs, last tick, ticks that were skipped or missed."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    found = await _schedules(gateway).list_of(project)
    return {"schedules": [await _shown(gateway, project, one) for one in found]}


@router.get("/schedules/{name}", response_model=ScheduleView)
async def schedule(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, Any]:
    """Return one schedule."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    found = await _schedules(gateway).get(project, name)
    if found is None:
        raise _unknown(name)
    return await _shown(gateway, project, found)


@router.post("/schedules/{name}/pause", status_code=202, response_model=dict[str, Any])
async def pause(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, Any]:
    """Pause a schedule: it starts nothing until it is resumed."""
    return await _paused(gateway, caller.project_or(project_id, gateway.settings.default_project), name, paused=True)


@router.post("/schedules/{name}/resume", status_code=202, response_model=dict[str, Any])
async def resume(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, Any]:
    """Resume a schedule. Ticks of the pause are not made up for."""
    return await _paused(gateway, caller.project_or(project_id, gateway.settings.default_project), name, paused=False)


@router.delete("/schedules/{name}", status_code=202, response_model=dict[str, str])
async def delete(gateway: Gw, caller: Caller, name: Name, project_id: AskedProject) -> dict[str, str]:
    """Remove a schedule. Executions that it started go on."""
    project = caller.project_or(project_id, gateway.settings.default_project)
    if not await _schedules(gateway).delete(project, name):
        raise _unknown(name)
    return {"name": name}


def _schedules(gateway: Gateway) -> Schedules:
    return Schedules(gateway.deps.bus, gateway.deps.triggers)


def _unknown(name: str) -> Problem:
    return Problem(404, "unknown-schedule", f"no schedule {name} in this project")


async def _paused(gateway: Gateway, project: str, name: str, *, paused: bool) -> dict[str, Any]:
    try:
        await _schedules(gateway).pause(project, name, paused=paused, now=gateway.deps.clock.now())
    except NotYetKnown:
        raise _unknown(name) from None
    return {"name": name, "paused": paused}


async def _shown(gateway: Gateway, project: str, stored: StoredSchedule) -> dict[str, Any]:
    found = stored.schedule
    due = Cron(found.cron, found.timezone).after(gateway.deps.clock.now())
    upcoming = [] if stored.paused else [time.isoformat() for time in islice(due, _UPCOMING)]
    state = await RuleStates(gateway.deps.triggers, project).read(state_name(found.name))
    shown = found.model_dump(mode="json")
    last = state.last_event.model_dump(mode="json") if state.last_event else None
    refused = [one.model_dump(mode="json") for one in state.refused]
    next_run = upcoming[0] if upcoming else None
    return {**shown, "next": next_run, "upcoming": upcoming, "last": last, "paused": stored.paused, "refused": refused}
