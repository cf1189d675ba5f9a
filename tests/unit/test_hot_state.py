"""The hot state: sweep, eviction and retention read what is open or due, however much is kept beside it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup, Limits, SessionCreate
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.errors import Drop, Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.ports import Entry
from ocf.events.streams import COMMANDS_AGE, DAY, STREAMS
from ocf.functions.core.cleanup_schedules import EVICTION, RETENTION, SWEEP, Schedule
from ocf.functions.core.execution_store import Records
from ocf.functions.core.open_executions import OpenExecutions
from tests.support.clock import ManualClock
from tests.support.handlers import cleanup, session, submit
from tests.support.parts import PROJECT, Bench, bench, instead

KEPT = 40


async def tick(b: Bench, schedule: Schedule) -> None:
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=schedule.entity, scope=schedule.scope)
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", data))


def counting(b: Bench) -> tuple[Bench, list[str]]:
    """The bench with a bucket that notes the key of every record that is read."""
    real, read = b.deps.executions, list[str]()

    async def get(key: str) -> Entry | None:
        read.append(key)
        return await real.get(key)

    async def entries(*arguments: Any, **options: Any) -> AsyncIterator[Entry]:
        async for entry in real.entries(*arguments, **options):
            read.append(entry.key)
            yield entry

    executions = instead(real, get=get, entries=entries)
    open_keys = b.deps.records.open._bucket
    records = Records(executions, b.bus, b.deps.clock, source="/test", store=b.store, open_keys=open_keys)
    return b.having(executions=executions, records=records), read


async def keep(b: Bench, number: int) -> None:
    """Ended executions that are archived and in the history, and whose time has not come."""
    now = b.deps.clock.now()
    for _ in range(number):
        fields: dict[str, Any] = dict.fromkeys(("submitted_at", "updated_at", "started_at", "ended_at"), now)
        record = Record(
            project_id=PROJECT,
            execution_id=str(uuid.uuid4()),
            state=State.COMPLETED,
            archived=True,
            timeout_seconds=60,
            **fields,
        )
        await b.deps.records.create(record)
        await b.deps.history.save(record)


@pytest.mark.parametrize("schedule", [SWEEP, EVICTION, RETENTION], ids=lambda one: one.scope)
async def test_what_is_kept_is_not_read(schedule: Schedule) -> None:
    """Only the open execution is, by the sweep; those that are due, by the others."""
    clock = ManualClock()
    b, read = counting(bench(clock, RETENTION="default=2h/1d"))
    await keep(b, 1)
    await clock.advance(timedelta(hours=3).total_seconds())
    await keep(b, KEPT)
    opened = str(uuid.uuid4())
    await submit(b.deps, b.submit(opened))
    read.clear()
    await tick(b, schedule)
    assert 0 < len(set(read)) <= 2, read
    if schedule is SWEEP:
        assert set(read) == {ExecutionRef(PROJECT, opened).record_key}


async def test_an_ended_execution_is_read_once_more() -> None:
    """Then its key goes, and the sweep ends when there is none."""
    b, read = counting(bench())
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    for _ in range(2):
        await tick(b, SWEEP)
        assert [ref.execution async for ref in b.deps.records.open.refs()] == [execution]
    ended = {"state": State.CANCELLED, "ended_at": b.deps.clock.now()}
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy(update=ended))
    await tick(b, SWEEP)
    assert [ref async for ref in b.deps.records.open.refs()] == []
    assert await b.bus.last(subjects.COMMANDS, SWEEP.subject) is None
    assert await b.bus.last(subjects.COMMANDS, EVICTION.subject) is not None
    read.clear()
    await tick(b, SWEEP)
    assert read == []


async def test_a_repeated_submit_writes_the_key_that_a_crash_left_out() -> None:
    """Also when the execution runs already; one whose submit is settled always has its key."""
    b = bench()
    for state in (State.PENDING, State.RUNNING):
        event = b.submit(execution := str(uuid.uuid4()))
        await submit(b.deps, event)
        await b.deps.records.open.remove(ExecutionRef(PROJECT, execution))
        now = {"state": state, "started_at": b.deps.clock.now()}
        await b.deps.records.change(PROJECT, execution, lambda record, now=now: record.model_copy(update=now))  # type: ignore[misc]
        with nullcontext() if state is State.PENDING else pytest.raises(Drop):
            await submit(b.deps, event)
        assert execution in [ref.execution async for ref in b.deps.records.open.refs()]


async def test_records_of_the_release_before_get_their_keys() -> None:
    """For an hour after the upgrade, as its functions may still run, and at least once."""
    clock = ManualClock()
    b = bench(clock)
    open_keys: OpenExecutions = b.deps.records.open
    executions = [str(uuid.uuid4()) for _ in range(3)]

    async def old(execution: str) -> None:
        await submit(b.deps, b.submit(execution))
        await open_keys.remove(ExecutionRef(PROJECT, execution))

    async def known() -> list[str]:
        return sorted([ref.execution async for ref in open_keys.refs()])

    await old(executions[0])
    for records in (True, False):  # setup runs more than once
        await open_keys.expect_upgrade(clock.now(), records=records)
    await tick(b, SWEEP)
    assert await known() == executions[:1]
    await clock.advance(3601)
    await old(executions[1])
    await tick(b, SWEEP)
    assert await known() == sorted(executions[:2])
    await old(executions[2])
    await tick(b, SWEEP)
    assert await known() == sorted(executions[:2])


@pytest.mark.parametrize("kind", ["submit", "session"])
async def test_a_command_that_nobody_took_is_rejected_before_it_expires(kind: str) -> None:
    """Not while it may still be delivered; what exists keeps its commands, and a late delivery finds nothing."""
    clock = ManualClock()
    b = bench(clock)
    taken, waiting = str(uuid.uuid4()), str(uuid.uuid4())
    for one in (taken, waiting):
        if kind == "submit":
            event = b.submit(one)
        else:
            event = b.command("dev.ocf.session.create.v1", SessionCreate(session_id=one, project_id=PROJECT))
        await b.bus.publish(event.extensions[NATS_SUBJECT], event.data, event.headers())
        if one is taken:
            await (submit if kind == "submit" else session)(b.deps, event)
    for days, said in ((28, []), (1.5, ["rejected"])):
        await clock.advance(timedelta(days=days).total_seconds())
        await tick(b, EVICTION)
        assert await b.said(waiting) == said
    assert "rejected" not in await b.said(taken)
    assert await b.commands(kind, waiting) == []
    assert len(await b.commands(kind, taken)) == 1
    assert await b.bus.last(subjects.COMMANDS, EVICTION.subject) is None  # nobody made it here


async def test_a_rejection_that_was_interrupted_is_said_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record was written, and the process ended before the fact."""
    clock = ManualClock()
    b = bench(clock)
    event = b.submit(waiting := str(uuid.uuid4()))
    await b.bus.publish(event.extensions[NATS_SUBJECT], event.data, event.headers())
    await clock.advance(timedelta(days=29.5).total_seconds())

    async def stopped(*_: Any, **__: Any) -> None:
        raise Unavailable("the process ends")

    with monkeypatch.context() as broken:
        broken.setattr(Records, "reject", stopped)
        await tick(b, EVICTION)
    assert (await b.deps.records.require(PROJECT, waiting)).state is State.REJECTED
    assert await b.said(waiting) == []
    await clock.advance(3600)
    await tick(b, EVICTION)
    assert await b.said(waiting) == ["rejected"]
    assert await b.commands("submit", waiting) == []


async def test_a_key_that_a_replica_lacks_keeps_the_sweep() -> None:
    """One of three replicas lags, and lists no key of a submit that crossed the end of the schedule."""
    b = bench()
    event = b.submit()
    real = b.deps.records.open._bucket

    async def lagging(*_: Any, **__: Any) -> AsyncIterator[Entry]:
        for entry in ():
            yield entry

    await submit(b.deps, event)
    b.deps.records.open._bucket = instead(real, entries=lagging)
    await tick(b, SWEEP)
    assert await b.bus.last(subjects.COMMANDS, SWEEP.subject) is not None


def test_the_commands_live_longer_than_anything_waits() -> None:
    """A run may take a day, and one that has not started is ended a day after its time; so twice that is waited."""
    (commands,) = (spec for spec in STREAMS if spec.name == subjects.COMMANDS)
    assert commands.max_age == COMMANDS_AGE > 2 * DAY
    with pytest.raises(ValidationError):
        Limits(timeout_seconds=DAY + 1)
