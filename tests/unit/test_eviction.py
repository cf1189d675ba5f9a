"""Eviction: an ended execution leaves NATS, and everything about it goes on from the archive."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.envelope import Event, decode, new_event
from ocf.events.errors import Drop, Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import PullRequestRef
from ocf.events.lifecycle import State
from ocf.events.ports import ConsumerSpec
from ocf.functions.core import cleanup_schedules
from ocf.functions.database.reading import Filter
from ocf.functions.settings.event_sinks import RETRIED_FOR
from tests.support.clock import ManualClock
from tests.support.handlers import archive, cancel, cleanup, history, submit
from tests.support.parts import PROJECT, Bench, bench

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
REF = ExecutionRef(PROJECT, ID)
DAY = 86_400.0


def command(b: Bench, scope: str = "eviction") -> Event:
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=cleanup_schedules.EVICTION.entity, scope=scope)  # type: ignore[arg-type]
    return new_event("dev.ocf.task.cleanup.v1", data, source="/test", time=b.deps.clock.now())


async def ended(b: Bench, **request: Any) -> Event:
    """An execution that was submitted, cancelled, archived and written; returns its submit."""
    event = b.submit(ID, **request)
    await b.bus.publish(REF.command("submit"), event.data, event.headers())
    await submit(b.deps, event)
    stop = b.command("dev.ocf.task.cancel.v1", Cancel(project_id=PROJECT, execution_id=ID))
    await cancel(b.deps, stop)
    await pass_on(b, "cancelled", archive, history)
    await pass_on(b, "archived", history)
    return event


async def pass_on(b: Bench, what: str, *functions: Any) -> None:
    message = await b.bus.last(subjects.EVENTS, REF.fact(what))
    assert message is not None
    fact = decode(message.headers, message.data).with_extensions(natssubject=message.subject)
    for function in functions:
        await function(b.deps, fact)


def clock_of(b: Bench) -> ManualClock:
    clock = b.deps.clock
    assert isinstance(clock, ManualClock)
    return clock


async def kept(b: Bench) -> list[str]:
    """What NATS has of the execution: keys and subjects."""
    found = [entry.key async for entry in b.deps.executions.entries(">")]
    for stream in (subjects.COMMANDS, subjects.EVENTS, subjects.OUTPUT):
        found += [message.subject async for message in b.bus.history(stream, ">") if ID in message.subject]
    return found


async def test_an_ended_execution_leaves_nats_after_the_grace() -> None:
    """Not before; then only the key that remembers its id is left, and that for seven days. Its archive stays."""
    b = bench()
    await ended(b)
    manifest = await b.store.get(REF.object_key("manifest.json"))
    await cleanup(b.deps, command(b))
    assert REF.record_key in await kept(b)
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    assert await kept(b) == [REF.ended_key]
    assert await b.store.get(REF.object_key("manifest.json")) == manifest
    found = await b.deps.records.find(PROJECT, ID)
    assert found is not None
    assert (found.state, found.archived) == (State.CANCELLED, True)
    assert [row["status"] for row in await b.deps.history.page(Filter(), 5)] == ["cancelled"]
    await clock_of(b).advance(7 * DAY + 1)
    assert await kept(b) == []


@pytest.mark.parametrize("missing", ["archive", "history", "database", "outbox"])
async def test_nothing_is_removed_that_is_not_stored_elsewhere(missing: str) -> None:
    """Archive, row and fact come first; a database that is away keeps everything."""
    b = bench()
    await ended(b)
    if missing == "archive":
        await b.deps.records.change(PROJECT, ID, lambda found: found.model_copy(update={"archived": False}))
    if missing == "history":
        await b.deps.history.remove(REF)
    if missing == "outbox":
        entry = {"type": "x", "id": "1", "time": b.deps.clock.now(), "data": "{}"}
        await b.deps.records.change(
            PROJECT, ID, lambda found: type(found).model_validate({**found.model_dump(), "outbox": [entry]})
        )
    await clock_of(b).advance(3601)
    if missing == "database":

        async def away(*_: Any) -> Any:
            raise Unavailable("away")

        b.deps.history._database.run = away  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await cleanup(b.deps, command(b))
    else:
        await cleanup(b.deps, command(b))
    assert REF.record_key in await kept(b)
    assert REF.command("submit") in await kept(b)


@pytest.mark.parametrize("then", ["acknowledged", "forgotten"])
async def test_facts_stay_until_every_sink_has_them(then: str) -> None:
    """A receiver that is away gets them at its next try; a consumer that nobody serves holds them for its schedule."""
    b = bench()
    await ended(b)
    sink = ConsumerSpec("sink-x", subjects.EVENTS, ("ocf.evt.*.*.cancelled",), ack_wait=30 * DAY)
    [delivery] = await b.bus.fetch(sink, 1, 1)
    await delivery.nak(3600)
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    assert REF.fact("cancelled") in await kept(b)
    if then == "acknowledged":
        [delivery] = await b.bus.fetch(sink, 1, 1)
        await delivery.ack()
    else:
        await clock_of(b).advance(RETRIED_FOR.total_seconds())
    await cleanup(b.deps, command(b))
    assert await kept(b) == [REF.ended_key]


async def test_a_change_after_the_archive_outlives_the_eviction() -> None:
    """A result that was pushed again is in the record of the manifest, beside which nothing changes."""
    b = bench()
    await ended(b)
    before = await b.store.get(REF.object_key("manifest.json"))
    await clock_of(b).advance(3601)
    pull = PullRequestRef(number=1, url="https://forge.example/1")
    await b.deps.records.change(PROJECT, ID, lambda found: found.model_copy(update={"pull_request": pull}))
    writes, put = list[str](), b.store.put

    async def noting(key: str, *rest: Any, **options: Any) -> Any:
        writes.append(key)
        return await put(key, *rest, **options)

    b.store.put = noting  # type: ignore[method-assign]
    await cleanup(b.deps, command(b))
    assert await kept(b) == [REF.ended_key]
    found = await b.deps.records.find(PROJECT, ID)
    assert found is not None
    assert (found.pull_request, found.publishing, found.archived) == (pull, None, True)
    assert writes == [REF.object_key("manifest.json")]
    after = json.loads(await b.store.get(writes[0]))
    assert {**after, "record": None} == {**json.loads(before), "record": None}


@pytest.mark.parametrize("days", [0, 8])
async def test_an_id_is_not_used_twice(days: int) -> None:
    """The same submit has no effect, another body is refused; by the key, and after it by the archive."""
    b = bench()
    event = await ended(b)
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    await clock_of(b).advance(days * DAY)
    before = await kept(b)
    with pytest.raises(Drop):
        await submit(b.deps, event)
    assert await kept(b) == before
    await submit(b.deps, b.submit(ID, prompt="Something else"))
    assert await kept(b) == [*before, REF.fact("rejected")]
    await pass_on(b, "rejected", *[])
    with pytest.raises(Drop):
        await pass_on(b, "rejected", archive)
    found = await b.deps.records.find(PROJECT, ID)
    assert found is not None
    assert found.state is State.CANCELLED


async def test_s3_away_does_not_stop_submits() -> None:
    """An id that is not remembered counts as free."""
    b = bench()

    async def away(key: str) -> None:
        raise Unavailable("away")

    b.store.head = away  # type: ignore[method-assign]
    await submit(b.deps, b.submit(ID))
    assert (await b.deps.records.require(PROJECT, ID)).state is State.PENDING


async def test_a_cancel_and_a_deletion_find_it() -> None:
    """The cancel has no effect; the deletion leaves nothing in NATS, archive and database."""
    b = bench()
    await ended(b)
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    stop = b.command("dev.ocf.task.cancel.v1", Cancel(project_id=PROJECT, execution_id=ID))
    with pytest.raises(Drop):
        await cancel(b.deps, stop)
    delete = Cleanup(project_id=PROJECT, execution_id=ID)
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", delete))
    assert await kept(b) == [REF.fact("cleaned")]
    assert [info.key async for info in b.store.list("")] == []
    await pass_on(b, "cleaned", history)
    assert await b.deps.history.page(Filter(), 5) == []


async def test_the_schedule_exists_while_there_are_ended_executions() -> None:
    """The sweep begins it, and the eviction that finds none ends it."""
    b = bench()
    await ended(b)
    await cleanup(b.deps, command(b, "sweep"))
    assert await b.bus.last(subjects.COMMANDS, cleanup_schedules.EVICTION.subject) is not None
    await cleanup(b.deps, command(b))
    assert await b.bus.last(subjects.COMMANDS, cleanup_schedules.EVICTION.subject) is not None
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    await cleanup(b.deps, command(b))
    assert await b.bus.last(subjects.COMMANDS, cleanup_schedules.EVICTION.subject) is None


async def test_expired_archives_are_found_without_records() -> None:
    """By the index of the history; the status stays, as far as the row has it."""
    b = bench(RETENTION="default=1h/2d")
    await ended(b, labels={"a": "b"})
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    await cleanup(b.deps, command(b, "retention"))
    assert await b.store.head(REF.object_key("manifest.json")) is not None
    await clock_of(b).advance(2 * DAY)
    await cleanup(b.deps, command(b, "retention"))
    assert [info.key async for info in b.store.list("")] == []
    assert [ref async for ref in b.deps.history.due("archive_expired", b.deps.clock.now())] == []
    found = await b.deps.history.record(REF)
    assert found is not None
    assert (found.state, found.archive_expired, found.labels) == (State.CANCELLED, True, {"a": "b"})
    delete = Cleanup(project_id=PROJECT, execution_id=ID)
    await clock_of(b).advance(10 * DAY)
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", delete))
    assert REF.fact("cleaned") in await kept(b)


async def test_the_remembered_id_is_small() -> None:
    """Less than a kilobyte of NATS per ended execution."""
    b = bench()
    await ended(b, prompt="x" * 50_000, labels={f"l{n}": "v" * 100 for n in range(20)})
    await clock_of(b).advance(3601)
    await cleanup(b.deps, command(b))
    entry = await b.deps.executions.get(REF.ended_key)
    assert entry is not None
    assert len(entry.value) + len(entry.key) < 500
    assert set(json.loads(entry.value)) == {"digest", "request_digest", "state"}
    assert timedelta(days=b.deps.settings.idempotency_days).days == 7
