"""Usage: runs, results, tokens and cost, summed from the history."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ocf.events.fact_payloads import FieldError
from ocf.functions.database.reading import Filter, Group
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.context import AskedProject, Caller, Gw
from ocf.functions.gateway.problems import invalid
from ocf.functions.gateway.request_body import StrictRoute, Time

router = APIRouter(tags=["usage"], route_class=StrictRoute)

_GROUPS: tuple[Group, ...] = get_args(Group)
_GROUP_BY = "^({0})(,({0}))*$".format("|".join(_GROUPS))
#: A spreadsheet takes a text that begins with one of them for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UsageRow(response_schemas.View):
    """Sums of one group; of the fields `project`, `model`, `day` and `label` only those of `group_by` are set."""

    project: str | None = None
    model: str | None = None
    day: str | None = None
    label: str | None = None
    runs: int
    completed: int
    failed: int
    cancelled: int
    timed_out: int
    rejected: int
    first_output_ms: int | None = Field(None, description="mean time from submit to the first text of the agent")
    first_outputs: int = Field(0, description="runs with a text of the agent")
    requests: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float


class UsageReport(response_schemas.View):
    """Usage by group, and the failures by reason."""

    usage: list[UsageRow]
    reasons: dict[str, int]


@router.get(
    "/usage",
    response_model=UsageReport,
    response_model_exclude_none=True,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def usage(
    gateway: Gw,
    caller: Caller,
    project_id: AskedProject,
    group_by: Annotated[
        str,
        Query(
            max_length=100,
            description="project, model, day, label; comma separated",
            json_schema_extra={"pattern": _GROUP_BY},
        ),
    ] = "day",
    from_: Annotated[Time | None, Query(alias="from", description="submitted at or after")] = None,
    to: Annotated[Time | None, Query(description="submitted before")] = None,
    format: Annotated[Literal["json", "csv"], Query(description="csv has no reasons")] = "json",
) -> UsageReport | Response:
    """Sum the executions of the named project, or of all the caller may read. Open ones count what their row has."""
    groups = [group for group in _GROUPS if group in group_by.split(",")]
    if not groups or set(group_by.split(",")) - set(_GROUPS):
        raise invalid([FieldError(field="group_by", message=f"must be one or more of {', '.join(_GROUPS)}")])
    projects = frozenset({caller.check(project_id)}) if project_id is not None else caller.projects
    wanted = Filter(projects, since=from_, until=to)
    rows = await gateway.deps.history.usage(wanted, groups)
    if format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"', "Cache-Control": "no-store"}
        return Response(_csv(rows), 200, headers, "text/csv; charset=utf-8")
    found = [UsageRow.model_validate(row) for row in rows]
    return UsageReport(usage=found, reasons=await gateway.deps.history.reasons(wanted))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        cells = row.values()
        writer.writerow(f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells)
    return text.getvalue()
