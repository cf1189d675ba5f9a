"""Who may take an execution over: nobody while its worker lives, whatever has become of its lease."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from ocf.events.command_payloads import Execute
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, Unavailable
from ocf.events.execution_record import Attempt as AttemptRecord
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.functions.core.command_parsing import command
from ocf.functions.core.lease_lookup import RECHECK_SECONDS
from ocf.functions.execute.attempt.runner import Runner
from tests.support.clock import ManualClock
from tests.support.handlers import submit
from tests.support.parts import PROJECT, Bench, bench
from tests.support.runs import runner_on, worker_on


class Reached(Exception):
    """It would begin."""


async def running_elsewhere(b: Bench) -> tuple[str, Runner]:
    """An execution in its first attempt on another worker, whose lease has run out; and one that would take it over."""
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    now = b.deps.clock.now()

    def begun(record: Record) -> Record:
        attempt = AttemptRecord(number=1, worker="other", started_at=now)
        return record.model_copy(update={"state": State.RUNNING, "started_at": now, "attempts": [attempt]})

    await b.deps.records.change(PROJECT, execution, begun)
    (event,) = await b.commands("execute", execution)
    run = runner_on(b.deps, command(event, Execute), event)

    async def begins(attempt: int) -> None:
        raise Reached

    run._lease.acquire = begins  # type: ignore[method-assign]
    return execution, run


async def begun(run: Runner, clock: ManualClock) -> asyncio.Task[None]:
    """It has looked once, and waits to look again."""
    taking = asyncio.create_task(run.run())
    while not clock.sleepers and not taking.done():
        await asyncio.sleep(0)
    return taking


async def test_an_attempt_whose_worker_is_gone_is_taken_over() -> None:
    """After the second look."""
    clock = ManualClock()
    _, run = await running_elsewhere(bench(clock))
    taking = await begun(run, clock)
    assert not taking.done()
    await clock.advance(RECHECK_SECONDS)
    with pytest.raises(Reached):
        await taking


@pytest.mark.parametrize("sign", ["lease", "record"])
async def test_an_attempt_whose_worker_comes_back_is_left_to_it(sign: str) -> None:
    """NATS was away for longer than a lease lives: the worker takes its lease again, or writes the record."""
    clock = ManualClock()
    b = bench(clock)
    execution, run = await running_elsewhere(b)
    taking = await begun(run, clock)
    await clock.advance(RECHECK_SECONDS / 2)
    if sign == "lease":
        await b.deps.executions.create(ExecutionRef(PROJECT, execution).lease_key, b"{}", ttl=10)
    else:
        await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy())
    await clock.advance(RECHECK_SECONDS / 2)
    with pytest.raises(Conflict):
        await taking


async def test_a_worker_told_to_go_while_it_looks_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would look for that run any more: it could be neither waited for nor handed on."""
    b = bench()
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    (event,) = await b.commands("execute", execution)
    worker = worker_on(b.deps)

    async def told_meanwhile(event: Event, *_: object) -> Event:
        worker.drain()
        return event

    monkeypatch.setattr("ocf.functions.execute.worker.dataref.resolve", told_meanwhile)
    with pytest.raises(Unavailable, match="shutting down"):
        await worker.execute(event)
    assert not worker.busy
