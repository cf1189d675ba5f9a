"""Replay: two runs compared, and functions that touch nothing real."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from ocf.cli.replay import _post_one
from ocf.events import subjects
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Cancel, Submit
from ocf.events.envelope import Event, new_event
from ocf.events.event_types import TYPES
from ocf.functions.runtime.bootstrap import build
from ocf.functions.runtime.dry_run import DryStore
from ocf.functions.runtime.serve import beside, build_app, started
from ocf.functions.settings.settings import Settings


async def test_a_dry_store_reads_below_and_writes_above() -> None:
    """What is beneath is never changed, and hidden once it is removed here."""
    beneath = MemoryStore()
    await beneath.put("p/e/a", b"below")
    dry = DryStore(beneath)
    assert await dry.get("p/e/a") == b"below"
    await dry.put("p/e/a", b"above")
    assert b"".join([piece async for piece in dry.stream("p/e/a")]) == b"above"
    await dry.delete_prefix("p/e/")
    assert await dry.head("p/e/a") is None
    assert beneath.objects == {"p/e/a": b"below"}


def recorded(type_: str, data: Any) -> Event:
    event = new_event(type_, data, source="/t", time=datetime(2026, 1, 1, tzinfo=UTC))
    return event.with_extensions(natssubject=TYPES[type_].subject(data.project_id, data.execution_id))


async def test_recorded_commands_build_up_the_state_that_each_one_needs() -> None:
    """A dry run of `cancel` alone takes the submit first; the bus, in memory, has heard all of it. That they had a time
    by which they were to be handled, long ago now, makes no difference."""
    ids = {"execution_id": str(uuid.uuid4()), "project_id": "default"}
    settings = Settings.model_validate({"DRY_RUN": True, "FUNCTION_TARGET": "cancel"})
    async with build(settings, "dry") as parts:
        transport = httpx2.ASGITransport(build_app(parts, ("cancel",), None, {}))
        async with (
            started(parts, beside(("cancel",))),
            httpx2.AsyncClient(transport=transport, base_url="http://dry") as http,
        ):
            for type_, data in (
                ("dev.ocf.task.submit.v1", Submit.model_validate({**ids, "prompt": "p"})),
                ("dev.ocf.task.cancel.v1", Cancel.model_validate({**ids, "why": "w"})),
            ):
                event = recorded(type_, data).with_extensions(expirytime="2026-01-01T00:01:00Z")
                answer = await http.post("/", content=event.data, headers=event.headers())
                assert answer.status_code == 200, answer.text
            odd = await http.post("/", content=b"{}", headers={"content-type": "text/plain"})
            assert odd.status_code == 400
        record = await parts.records.require("default", ids["execution_id"])
        assert (record.state.value, record.cancel_why) == ("cancelled", "w")
        verbs = {m.subject.split(".")[2] async for m in parts.bus.history(subjects.COMMANDS, "ocf.cmd.>")}
        assert verbs == {"submit", "execute", "cancel"}


@pytest.mark.parametrize("change", [{"subject": None}, {"data": b"", "extensions": {"dataref": "ocf-s3:p/e/data/x"}}])
async def test_ordinary_recordings_are_posted(change: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Events without `ce-subject`, and those whose large data lie in the store: as they were, and to which subject."""
    execution, posted = str(uuid.uuid4()), list[httpx2.Request]()
    submit = Submit.model_validate({"execution_id": execution, "project_id": "p", "prompt": "x"})
    event = replace(new_event("dev.ocf.task.submit.v1", submit, source="/t", time=datetime.now(UTC)), **change)

    def answer(request: httpx2.Request) -> httpx2.Response:
        posted.append(request)
        return httpx2.Response(200)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        assert await _post_one(http, "http://debugged/", event, ("p", execution), True)
    [request] = posted
    assert request.headers["ce-natssubject"] == f"ocf.cmd.submit.p.{execution}"
    assert request.content == event.data
    assert request.headers.get("ce-dataref") == event.extensions.get("dataref")
    assert json.loads(capsys.readouterr().out)["status"] == 200
