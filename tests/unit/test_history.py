"""The history function: facts in, rows out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.envelope import Event, new_event
from ocf.events.errors import DeadLetter, Drop, InvalidEvent, NotYetKnown, Unavailable, Unreadable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import (
    Accepted,
    Archived,
    Cleaned,
    Completed,
    Rejected,
    SessionCreated,
    SessionDestroyed,
    SessionRejected,
)
from ocf.events.lifecycle import State
from ocf.events.session_record import Session
from ocf.functions.database.reading import Filter
from tests.support.handlers import history
from tests.support.parts import PROJECT, Bench, bench

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
REF = ExecutionRef(PROJECT, ID)
IDS = {"execution_id": ID, "project_id": PROJECT}


def fact(b: Bench, what: str, data: Any, ref: ExecutionRef = REF, **marks: str) -> Event:
    event = new_event(f"dev.ocf.task.{what}.v1", data, source="/test", time=b.deps.clock.now())
    return event.with_extensions(natssubject=f"ocf.evt.{ref.project}.{ref.execution}.{what}", **marks)


async def record(b: Bench, **fields: Any) -> Record:
    now = b.deps.clock.now()
    given = {"state": State.COMPLETED, "submitted_at": now, "updated_at": now, "timeout_seconds": 60, **fields}
    made = Record(**IDS, **given)
    await b.deps.records.create(made)
    return made


async def listed(b: Bench) -> list[str]:
    return [row["status"] for row in await b.deps.history.page(Filter(), 10)]


NAMELESS = Rejected(execution_id="X", project_id=PROJECT, errors=[])
COMPLETED = Completed(**IDS, attempt=1, duration_ms=1)


async def test_each_fact_brings_the_row_up_to_date() -> None:
    """From pending to archived; repeated deliveries change nothing; `cleaned` leaves nothing."""
    b = bench()
    await record(b, state=State.PENDING)
    await history(b.deps, fact(b, "accepted", Accepted(**IDS)))
    assert await listed(b) == ["pending"]
    done = {"state": State.COMPLETED, "ended_at": b.deps.clock.now()}
    await b.deps.records.change(PROJECT, ID, lambda found: found.model_copy(update=done))
    for _ in range(2):
        await history(b.deps, fact(b, "completed", COMPLETED))
        assert await listed(b) == ["completed"]
    archived = fact(b, "archived", Archived(**IDS, prefix="x", objects=[], chunks=0))
    with pytest.raises(NotYetKnown):
        await history(b.deps, archived)
    await b.deps.records.change(PROJECT, ID, lambda found: found.model_copy(update={"archived": True}))
    await history(b.deps, archived)
    assert (await b.deps.history.page(Filter(), 1))[0]["archived"]
    await history(b.deps, fact(b, "cleaned", Cleaned(**IDS, removed={})))
    assert await listed(b) == []


async def test_an_end_that_the_record_does_not_show_yet_waits() -> None:
    """A replica of the bucket may lag behind the fact."""
    b = bench()
    await record(b, state=State.RUNNING)
    with pytest.raises(NotYetKnown):
        await history(b.deps, fact(b, "completed", COMPLETED))


async def test_a_late_fact_does_not_bring_a_deleted_execution_back() -> None:
    """Without a record there is no row; a deletion during the write removes it again."""
    b = bench()
    with pytest.raises(Drop):
        await history(b.deps, fact(b, "completed", COMPLETED))
    await record(b)
    save = b.deps.history.save

    async def slowly(*given: Any) -> None:
        await b.deps.executions.delete(REF.record_key)
        await b.bus.publish(REF.fact("cleaned"), b"{}", {})
        await save(*given)

    b.deps.history.save = slowly  # type: ignore[method-assign]
    await history(b.deps, fact(b, "completed", COMPLETED))
    assert await listed(b) == []


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (lambda b: replace(fact(b, "accepted", Accepted(**IDS)), data=b'{"no": 1}'), InvalidEvent),
        (
            lambda b: fact(b, "rejected", NAMELESS, ExecutionRef(PROJECT, "X")),
            Drop,
        ),
        (
            lambda b: new_event(
                "dev.ocf.session.rejected.v1",
                SessionRejected(session_id=ID, project_id=PROJECT, errors=[]),
                source="/test",
                time=b.deps.clock.now(),
            ),
            Drop,
        ),
    ],
    ids=["data", "id", "session"],
)
async def test_a_fact_without_a_row_is_settled_at_once(event: Any, error: type[Exception]) -> None:
    """Dropped or a dead letter: it never blocks another one."""
    b = bench()
    with pytest.raises(error):
        await history(b.deps, event(b))
    await record(b)
    await history(b.deps, fact(b, "completed", COMPLETED))
    assert await listed(b) == ["completed"]


async def test_a_poisoned_record_is_a_dead_letter() -> None:
    """One that cannot be read, and one whose time no database has."""
    b = bench()
    made = await record(b)
    entry = await b.deps.executions.get(REF.record_key)
    assert entry is not None
    early = {**json.loads(made.model_dump_json()), "submitted_at": "0001-01-01T00:00:00+14:00"}
    for value, error in ((b"[]", Unreadable), (json.dumps(early).encode(), DeadLetter)):
        newest = await b.deps.executions.get(REF.record_key)
        assert newest is not None
        await b.deps.executions.update(REF.record_key, value, newest.revision)
        with pytest.raises(error):
            await history(b.deps, fact(b, "completed", COMPLETED))


async def test_a_bug_is_retried_and_then_a_dead_letter() -> None:
    """A fact is not delivered for ever; one that waits for the database is."""
    b = bench()
    await record(b)

    async def failing(*_: Any) -> None:
        raise problem

    b.deps.history.save = failing  # type: ignore[method-assign]
    problem: Exception = RuntimeError("a mistake")
    with pytest.raises(RuntimeError):
        await history(b.deps, fact(b, "completed", COMPLETED, natsdeliveries="29"))
    with pytest.raises(DeadLetter):
        await history(b.deps, fact(b, "completed", COMPLETED, natsdeliveries="30"))
    problem = Unavailable("away")
    with pytest.raises(Unavailable):
        await history(b.deps, fact(b, "completed", COMPLETED, natsdeliveries="3000"))
    assert await b.bus.last(subjects.EVENTS, REF.fact("completed")) is None


async def test_a_session_is_listed_while_it_exists() -> None:
    """`created` makes its row, `destroyed` removes it, in whatever order they arrive and however often."""
    b = bench()
    ref = SessionRef(PROJECT, ID)
    now = b.deps.clock.now()
    ids = {"session_id": ID, "project_id": PROJECT}
    times = {"created_at": now, "updated_at": now, "expires_at": now, "ttl_seconds": 60}
    await b.deps.session_records.create(Session.model_validate({**ids, **times}))

    def about(what: str, data: Any) -> Event:
        event = new_event(f"dev.ocf.session.{what}.v1", data, source="/test", time=now)
        return event.with_extensions(natssubject=f"ocf.evt.{PROJECT}.{ID}.{what}")

    created = about("created", SessionCreated(**ids, expires_at=now))
    for _ in range(2):
        await history(b.deps, created)
        assert await b.deps.history.session_page(frozenset({PROJECT}), 10) == [(ref, now)]
    assert await b.deps.history.session_page(frozenset({"other"}), 10) == []
    # The function says `destroyed`, then deletes the record; a late `created` falls between the two.
    destroyed = SessionDestroyed(**ids)
    await b.deps.records.publish_fact("dev.ocf.session.destroyed.v1", destroyed, None, once=True)
    await history(b.deps, about("destroyed", destroyed))
    for _ in range(2):
        assert await b.deps.history.session_page(None, 10) == []
        await history(b.deps, created)
        await b.deps.session_records.delete(PROJECT, ID)
