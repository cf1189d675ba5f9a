"""The list of executions: filters, pages, and the state of open ones."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import create_engine

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.functions.database.connection import Database
from ocf.functions.database.store import CONSUMER, History
from ocf.functions.gateway import execution_listing
from tests.support.gateway import ID, OTHER, World


def an_id(number: int) -> str:
    return str(uuid.UUID(int=number))


async def ids(world: World, query: str = "") -> list[int]:
    items = (await world.client.get(f"/tasks{query}")).json()["items"]
    return [uuid.UUID(item["execution_id"]).int for item in items]


async def some(world: World, count: int) -> None:
    """Executions 1 to count, a second apart."""
    for number in range(1, count + 1):
        states = (State.COMPLETED, State.RUNNING)
        await world.record(
            an_id(number),
            state=states[number % 2],
            labels={"parity": str(number % 2)} | ({"first": "yes"} if number == 1 else {}),
            title=f"Task {number}",
            session_id=ID if number == 2 else None,
            task_id=f"t{number}",
        )
        await world.clock.advance(1)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("?status=running", [5, 3, 1]),
        ("?status=running&status=completed", [5, 4, 3, 2, 1]),
        ("?status=failed", []),
        ("?label=parity%3D0", [4, 2]),
        ("?label=first", [1]),
        ("?label=first&label=parity%3D0", []),
        (f"?session_id={ID}", [2]),
        ("?task_id=t3", [3]),
        ("?q=TASK%204", [4]),
        (f"?id_prefix={an_id(3)[:36]}", [3]),
        (f"?id_prefix={an_id(3)[:-1]}", [5, 4, 3, 2, 1]),
        ("?id_prefix=f", []),
        ("?since=2026-01-01T00:00:03Z", [5, 4]),
        ("?until=2026-01-01T00:00:02Z", [2, 1]),
        ("?since=2026-01-01T00:00:01Z&until=2026-01-01T01:00:02%2B01:00", [2]),
        ("?project_id=other", []),
    ],
)
async def test_filters_bound_the_history(query: str, wanted: list[int]) -> None:
    """Newest first; every filter that is given must hold."""
    world = World()
    await some(world, 5)
    assert await ids(world, query) == wanted


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?status=done", "status"),
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?cursor=!!", "cursor"),
        ("?cursor=YWJj", "cursor"),
        ("?since=yesterday", "since"),
        ("?since=0001-01-01T00:00:00%2B01:00", "since"),
        ("?until=9999-12-31T23:59:59-01:00", "until"),
        ("?project_id=NO", "project_id"),
        ("?" + "&".join(["label=a"] * 33), "label"),
        (f"?label={'a' * 321}", "label"),
        ("?" + "&".join(["status=running"] * 9), "status"),
        (f"?task_id={'t' * 201}", "task_id"),
        (f"/{ID}/output?" + "&".join(["types=text"] * 40), "types"),
    ],
)
async def test_a_wrong_filter_is_named(query: str, field: str) -> None:
    """422 with the parameter, also where it is too long or repeated more often than can be of use."""
    world = World()
    await world.record()
    answer = await world.client.get(f"/tasks{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_pages_neither_repeat_nor_skip_while_new_ones_arrive() -> None:
    """A cursor is a place in time, not a count."""
    world = World()
    await some(world, 7)
    seen, cursor = [], ""
    while True:
        page = (await world.client.get(f"/tasks?limit=3{cursor}")).json()
        seen += [uuid.UUID(item["execution_id"]).int for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
        await world.record(an_id(100 + len(seen)))
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_open_executions_are_shown_as_they_are_now() -> None:
    """The row may be older than the record: the list has the record's state, and the filter holds for it."""
    world = World()
    running = await world.record(state=State.RUNNING)
    ended = running.model_copy(update={"state": State.COMPLETED})
    key = ExecutionRef("default", ID).record_key
    entry = await world.executions.get(key)
    assert entry is not None
    await world.executions.update(key, ended.model_dump_json().encode(), entry.revision)
    (item,) = (await world.client.get("/tasks")).json()["items"]
    assert item["status"] == "completed"
    assert await ids(world, "?status=running") == []
    await world.executions.delete(key)
    assert await ids(world) == []


async def test_a_caller_finds_what_it_has_just_submitted() -> None:
    """Before there is a record, then by its record, then by its row, each time once; by every filter that fits."""
    world = World()
    await some(world, 3)
    body = {"prompt": "Mend it", "labels": {"a": "b"}}
    execution = (await world.client.post("/tasks/execute", json=body)).json()["execution_id"]
    mine = uuid.UUID(execution).int
    assert await ids(world) == [mine, 3, 2, 1]
    assert await ids(world, "?limit=2") == [mine, 3]
    assert await ids(world, "?status=pending") == [mine]
    assert await ids(world, "?status=failed") == []
    record = Record(
        execution_id=execution,
        project_id="default",
        state=State.PENDING,
        submitted_at=world.clock.now(),
        updated_at=world.clock.now(),
        timeout_seconds=60,
        title="Mend it",
        labels={"a": "b"},
    )
    await world.executions.create(f"default.{execution}", record.model_dump_json().encode())
    assert await ids(world, "?label=a%3Db&q=mend") == [mine]
    assert await ids(world, "?label=a%3Dc") == []
    await world.history.save(record)
    assert await ids(world) == [mine, 3, 2, 1]
    await world.executions.delete(f"default.{execution}")
    await world.history.remove(ExecutionRef("default", execution))
    await world.clock.advance(61)
    assert await ids(world) == [3, 2, 1]


async def test_without_the_database_only_lists_are_refused() -> None:
    """503 that says why, while status, submit and readiness go on; readiness says how far the history is behind."""

    class Away(Database):
        async def run(self, work: Any) -> Any:
            raise Unavailable("the database did not answer within 10 s")

    world = World(history=History(Away(create_engine("sqlite://"))))
    await world.record()
    for number in range(3):
        await world.bus.publish(subjects.fact("default", an_id(number), "accepted"), b"{}", {})
    await world.bus.fetch(replace(CONSUMER, subjects=("ocf.evt.>",)), 1, 0)
    answer = await world.client.get("/tasks")
    assert (answer.status_code, "the database" in answer.json()["detail"]) == (503, True)
    assert (await world.client.get(f"/tasks/{ID}/status")).json()["status"] == "running"
    assert (await world.client.post("/tasks/execute", json={"prompt": "x"})).status_code == 202
    ready = await world.client.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    check = ready.json()["checks"]["history"]
    assert not check["ok"]
    assert "3 facts are not in it yet" in check["detail"]


async def test_readiness_counts_the_missing_facts_of_a_silent_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut network refuses nothing: the check gives up on the database before its own time is over."""

    class Silent(Database):
        async def run(self, work: Any) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(execution_listing, "_READY_SECONDS", 0.01)
    world = World(history=History(Silent(create_engine("sqlite://"))))
    await world.bus.fetch(replace(CONSUMER, subjects=("ocf.evt.>",)), 1, 0)
    check = (await world.client.get("/ready")).json()["checks"]["history"]
    assert "0 facts are not in it yet" in check["detail"]


@pytest.mark.parametrize(
    "poison",
    [b"\xff", b"[]", b"{" * 500, b"", None],
    ids=["bytes", "a list", "deep", "nothing", "before all time"],
)
async def test_a_record_that_cannot_be_read_hides_no_other(poison: bytes | None) -> None:
    """The history goes on with what is before and behind it."""
    world = World()
    await world.record(ID)
    if poison is None:
        entry = await world.executions.get(ExecutionRef("default", ID).record_key)
        assert entry is not None
        poison = json.dumps({**json.loads(entry.value), "submitted_at": "0001-01-01T00:00:00+14:00"}).encode()
    await world.record(an_id(7))
    key = ExecutionRef("default", an_id(7)).record_key
    before = await world.executions.get(key)
    assert before is not None
    await world.executions.update(key, poison, before.revision)
    await world.record(OTHER)
    listed = (await world.client.get("/tasks")).json()["items"]
    assert {ID, OTHER} <= {task["execution_id"] for task in listed}


async def test_filters_by_many_labels_leave_no_statement_behind() -> None:
    """Each number of labels is a statement of its own, with 24 kB for each label: those are not kept."""
    world = World()
    await some(world, 2)
    kept = world.history._database.engine._compiled_cache
    assert kept is not None
    before = len(kept)
    for number in range(20, 33):
        assert await ids(world, "?" + "&".join(f"label=k{at}=v" for at in range(number))) == []
    assert len(kept) <= before + 1
