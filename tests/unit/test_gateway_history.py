"""The list of executions: filters, pages, and how it follows the bucket."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import timedelta

import pytest

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State
from ocf.events.refs import ExecutionRef
from ocf.functions.gateway.history_index import Index, Query
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
        ("?project_id=NO", "project_id"),
    ],
)
async def test_a_wrong_filter_is_named(query: str, field: str) -> None:
    """422 with the parameter."""
    answer = await World().client.get(f"/tasks{query}")
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


async def test_changes_and_removals_reach_the_list() -> None:
    """A changed record changes its row; one that was cleaned is dropped on its fact."""
    world = World()
    await world.record(state=State.RUNNING)
    await world.record(state=State.COMPLETED)
    assert await ids(world, "?status=completed")
    async with world.app.router.lifespan_context(world.app):
        await world.executions.delete(f"default.{ID}")
        while len(world.gateway.index):
            await world.fact("cleaned")
            await world.clock.advance(0.1)
    assert await ids(world) == []


async def test_a_bucket_that_fails_is_followed_again() -> None:
    """What changed while it did not answer is taken in afterwards."""
    world = World()

    class Failing(MemoryBucket):
        broken = True

        async def entries(self, filter: str = ">", *, after: int = 0):  # type: ignore[no-untyped-def]
            if self.broken:
                raise ConnectionError("gone")
            async for entry in super().entries(filter, after=after):
                yield entry

    bucket = Failing(world.clock)
    world = World(executions=bucket)
    world.executions = bucket
    async with world.app.router.lifespan_context(world.app):
        await world.clock.advance(1)
        assert not world.gateway.index.ready
        bucket.broken = False
        while not world.gateway.index.ready:
            await world.clock.advance(1)


async def test_ten_thousand_records_give_a_page_in_no_time() -> None:
    """The first page, the worst filter and a deep page each stay below 50 ms."""
    world = World()
    now = world.clock.now()
    for number in range(10_000):
        record = Record(
            execution_id=an_id(number),
            project_id="default",
            state=State.COMPLETED,
            submitted_at=now + timedelta(seconds=number),
            updated_at=now,
            timeout_seconds=60,
            title=f"Task {number}",
        )
        await world.executions.create(f"default.{record.execution_id}", record.model_dump_json().encode())
    index: Index = world.gateway.index
    await index.refresh()
    for query in (Query(None), Query(None, text="no such title"), Query(frozenset({"default"}))):
        took = []
        for _ in range(5):
            started = time.process_time()
            index.page(query, 50, None)
            took.append(time.process_time() - started)
        assert min(took) < 0.05
    assert len(await ids(world)) == 50


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
    await world.executions.update(ExecutionRef("default", an_id(7)).record_key, poison, 0)
    await world.record(OTHER)
    listed = (await world.client.get("/tasks")).json()["items"]
    assert {task["execution_id"] for task in listed} == {ID, OTHER}


async def test_a_surprise_does_not_end_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised where it follows the bucket, it goes on following."""
    world = World()
    refresh, tries = world.gateway.index.refresh, [0]

    async def surprising() -> None:
        tries[0] += 1
        if tries[0] == 1:
            raise RuntimeError("a mistake")
        await refresh()

    monkeypatch.setattr(world.gateway.index, "refresh", surprising)
    following = asyncio.ensure_future(world.gateway.index.run())
    try:
        async with asyncio.timeout(5):
            while not world.gateway.index.ready:
                await world.clock.advance(1)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
