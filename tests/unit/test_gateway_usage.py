"""`GET /usage`: sums of the history."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events.lifecycle import Reason, State
from ocf.events.output import Usage
from ocf.functions.gateway.settings import GatewaySettings
from tests.support.gateway import ID, OTHER, SECRET, World, bearer


async def some(world: World) -> None:
    usage = Usage(requests=2, input_tokens=100, output_tokens=10, cost_usd=0.25)
    await world.record(
        ID, state=State.COMPLETED, model="a/b", usage=usage, labels={"team": "=cmd()"}, first_output_ms=1_500
    )
    await world.record(OTHER, "team-b", state=State.FAILED, reason=Reason.STALLED, usage=usage)


async def test_usage_by_project_model_and_day() -> None:
    """The groups that are asked for, their sums, and the failures by reason."""
    world = World()
    await some(world)
    answer = (await world.client.get("/usage?group_by=project,model,day")).json()
    first, second = answer["usage"]
    assert {name: first[name] for name in ("project", "model", "day", "runs", "completed", "input_tokens")} == {
        "project": "default",
        "model": "a/b",
        "day": "2026-01-01",
        "runs": 1,
        "completed": 1,
        "input_tokens": 100,
    }
    assert (second["project"], second["failed"], second["cost_usd"]) == ("team-b", 1, 0.25)
    assert (first["first_output_ms"], second.get("first_output_ms")) == (1_500, None)
    assert answer["reasons"] == {"stalled": 1}
    assert (await world.client.get("/usage?from=2026-01-02T00:00:00Z")).json() == {"usage": [], "reasons": {}}


async def test_a_spreadsheet_gets_no_formula() -> None:
    """CSV with a header; a text of a tenant is never a formula."""
    world = World()
    await some(world)
    text = (await world.client.get("/usage?group_by=label,model&format=csv")).text
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["label"], row["model"], row["runs"]) == ("team==cmd()", "a/b", "1")
    await world.record(ID, state=State.COMPLETED, model="=x")
    text = (await world.client.get("/usage?group_by=model&format=csv")).text
    assert {row["model"] for row in csv.DictReader(io.StringIO(text))} == {"", "'=x"}


@pytest.mark.parametrize("groups", ["", "user", "day,user", "day;model"])
async def test_an_unknown_group_is_named(groups: str) -> None:
    """422 with the possible ones."""
    answer = await World().client.get(f"/usage?group_by={groups}")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], "project, model, day, label" in error["message"]) == ("group_by", True)


async def test_a_caller_sees_its_own_projects_only() -> None:
    """Sums and reasons of others are as invisible as their executions."""
    world = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    await some(world)

    async def ask(query: str, projects: Any) -> Any:
        return await world.client.get(f"/usage{query}", headers=bearer(projects))

    mine = (await ask("?group_by=project", ["default"])).json()
    assert ([row["project"] for row in mine["usage"]], mine["reasons"]) == (["default"], {})
    assert (await ask("?project_id=team-b", ["default"])).status_code == 403
    assert len((await ask("?group_by=project", "*")).json()["usage"]) == 2
