"""A deletion and a submit of one execution at the same time, as after a dispatcher that was stopped for a while."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup
from ocf.events.errors import Conflict, Drop
from tests.support.clock import ManualClock
from tests.support.handlers import cleanup, submit
from tests.support.parts import PROJECT, Bench, bench, instead


def clean(b: Bench, execution: str) -> Any:
    return b.command("dev.ocf.task.cleanup.v1", Cleanup(execution_id=execution, project_id=PROJECT))


async def said(b: Bench, execution: str) -> list[str]:
    history = b.bus.history(subjects.EVENTS, f"ocf.evt.{PROJECT}.{execution}.>")
    return [message.subject.rsplit(".", 1)[-1] async for message in history]


async def published(b: Bench, event: Any, execution: str, verb: str) -> None:
    await b.bus.publish(subjects.command(verb, PROJECT, execution), event.data, event.headers())


async def test_a_submit_that_records_after_the_deletion_has_it_deleted_again() -> None:
    """cleanup comes and goes between submit's look for `cleaned` and its record: submit asks for a further one."""
    b = bench(ManualClock())
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await published(b, event, execution, "submit")
    create = b.deps.records.create

    async def later(record: Any) -> None:
        await cleanup(b.deps, clean(b, execution))
        await create(record)

    with pytest.raises(Drop, match="deleted before it was recorded"):
        await submit(b.having(records=instead(b.deps.records, create=later)).deps, event)
    message = await b.bus.last(subjects.COMMANDS, subjects.command("cleanup", PROJECT, execution))
    assert message is not None
    assert message.headers["ce-type"] == "dev.ocf.task.cleanup.v1"


async def test_a_deletion_that_finds_a_record_afterwards_comes_again() -> None:
    """submit records between cleanup's removal and its fact: cleanup is not done, and its next try removes all."""
    b = bench(ManualClock())
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await published(b, event, execution, "submit")
    say = b.deps.records.publish_fact

    async def later(type_: str, *args: Any, **more: Any) -> None:
        if type_ == "dev.ocf.task.cleaned.v1":
            await submit(b.deps, event)
        await say(type_, *args, **more)

    with pytest.raises(Conflict, match="by a concurrent submit"):
        await cleanup(b.having(records=instead(b.deps.records, publish_fact=later)).deps, clean(b, execution))
    assert await b.deps.records.get(PROJECT, execution) is not None
    with pytest.raises(Conflict, match="cancelled first"):
        await cleanup(b.deps, clean(b, execution))


async def test_purged_fact_is_published_again() -> None:
    """`cleaned` is there after a second deletion too, however soon: its identity is not taken for said."""
    b = bench(ManualClock())
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await published(b, event, execution, "submit")
    await cleanup(b.deps, clean(b, execution))
    assert await said(b, execution) == ["cleaned"]
    await b.bus.purge(subjects.EVENTS, f"ocf.evt.{PROJECT}.{execution}.>")
    await published(b, event, execution, "submit")
    await cleanup(b.deps, clean(b, execution))
    assert await said(b, execution) == ["cleaned"]
