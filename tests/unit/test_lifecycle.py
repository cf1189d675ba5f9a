"""The life cycles are tables, and the product takes every row of them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.cli import render, tasks
from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import IllegalStep, Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.lifecycle import (
    ATTEMPT,
    EXECUTION,
    SESSION,
    TERMINAL,
    AttemptState,
    AttemptStep,
    LifeCycle,
    Reason,
    SessionState,
    SessionStep,
    State,
    Step,
)
from ocf.functions.core.cleanup_schedules import SWEEP
from ocf.functions.core.publish_rejection import Refusal
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, session, submit
from tests.support.parts import PROJECT, Bench, bench
from tests.support.runs import worker_on
from tests.unit.test_attempt import Scene, scene
from tests.unit.test_sessions import expiry, request, submitted

CYCLES = (EXECUTION, ATTEMPT, SESSION)


def test_terminal_states_are_those_that_nothing_leaves() -> None:
    """Exactly these five end an execution."""
    assert {str(state) for state in TERMINAL} == {"completed", "failed", "cancelled", "timed_out", "rejected"}


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.name)
@given(data=st.data())
def test_no_sequence_of_steps_leaves_a_terminal_state(cycle: LifeCycle[Any, Any], data: st.DataObject) -> None:
    """Whatever is tried, in whatever order, there is at most one end."""
    state: StrEnum | None = None
    ended = False
    for taken in data.draw(st.lists(st.sampled_from(sorted({taken for _, taken in cycle.table})), max_size=12)):
        if cycle.allows(state, taken):
            assert not ended
            state = cycle.step(state, taken)
            ended = state in cycle.terminal


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_an_illegal_step_names_state_and_step(state: State) -> None:
    """The error says what was tried, and from where."""
    with pytest.raises(IllegalStep, match=rf"execution: no step 'start' from state '{state}'"):
        EXECUTION.step(state, Step.START)


@pytest.mark.parametrize(
    ("cycle", "states"), [(EXECUTION, State), (ATTEMPT, AttemptState), (SESSION, SessionState)], ids=str
)
def test_every_state_can_be_reached(cycle: LifeCycle[Any, Any], states: type[StrEnum]) -> None:
    """No state is only a word."""
    assert set(cycle.table.values()) == set(states)


def test_a_second_attempt_does_not_begin_while_one_is_open() -> None:
    """The first one has to end."""
    now = ManualClock().now()
    record = Record.model_validate(
        {
            "execution_id": str(uuid.uuid4()), "project_id": PROJECT, "state": "running",
            "submitted_at": now, "updated_at": now, "timeout_seconds": 60,
        }
    ).begin_attempt("w", now)  # fmt: skip
    with pytest.raises(IllegalStep, match=r"attempt: no step 'start' from state 'running'"):
        record.begin_attempt("v", now)


def test_the_console_and_the_command_line_know_every_state() -> None:
    """The console's names are generated; the command line has a colour for each, and an exit status for each end."""
    generated = (Path(__file__).parents[2] / "console/src/stream/lifecycle-states.ts").read_text()

    def listed(name: str) -> list[str]:
        found = re.search(rf"export const {name}[^=]*= [^\[]*\[(.*?)\]", generated, re.S)
        assert found is not None, name
        return re.findall(r'"(\w+)"', found[1])

    assert listed("STATES") == list(State)
    assert set(listed("TERMINAL_STATES")) == TERMINAL
    assert set(listed("ATTEMPT_ENDS")) == ATTEMPT.terminal
    assert listed("SESSION_STATES") == [SessionState.OPEN, SessionState.DESTROYING]
    assert set(tasks.EXIT) == TERMINAL
    assert set(render.MARKS) == TERMINAL


# Every row, taken by the product's own functions. A scenario brings the entity to the row's first state, yields, and
# then takes the row's step.
Command = Callable[[Bench, str], Event]
Scenario = Callable[..., AsyncIterator[None]]
ROWS: dict[tuple[str, StrEnum | None, StrEnum], Scenario] = {}


def row(cycle: LifeCycle[Any, Any], state: StrEnum | None, taken: StrEnum) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        ROWS[cycle.name, state, taken] = scenario
        return scenario

    return register


class Subject:
    """A bench, and the id of the execution or session that a scenario is about."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = ManualClock()
        self.bench: Bench = bench(self.clock, SESSION_TTL="100")
        self.id = str(uuid.uuid4())
        self.tmp_path = tmp_path

    async def record(self) -> Record | None:
        return await self.bench.deps.records.get(PROJECT, self.id)

    async def execution(self) -> State | None:
        record = await self.record()
        return record.state if record else None

    async def attempt(self) -> str | None:
        record = await self.record()
        return (record.attempts[-1].ended or AttemptState.RUNNING) if record and record.attempts else None

    async def session(self) -> SessionState | None:
        found = await Sessions(self.bench.deps.sessions, self.clock).get(PROJECT, self.id)
        if found is not None:
            return found.life
        return SessionState.DESTROYED if "destroyed" in await self.bench.said(self.id) else None

    async def cancel(self) -> None:
        data = Cancel(execution_id=self.id, project_id=PROJECT)
        await cancel(self.bench.deps, self.bench.command("dev.ocf.task.cancel.v1", data))

    async def sweep_after(self, span: timedelta) -> None:
        await self.clock.advance(span.total_seconds())
        data = Cleanup(execution_id=SWEEP.entity, project_id=subjects.SYSTEM_PROJECT, scope="sweep")
        sweeping = asyncio.create_task(cleanup(self.bench.deps, self.bench.command("dev.ocf.task.cleanup.v1", data)))
        while not sweeping.done():
            await self.clock.advance(1)
        await sweeping

    async def lose_worker(self, *, max_attempts: int = 1) -> None:
        """Bring the execution into its first attempt, on a worker whose lease has expired."""
        await submit(self.bench.deps, self.bench.submit(self.id, retry={"max_attempts": max_attempts}))
        now = self.clock.now()

        def started(record: Record) -> Record:
            changes = {"state": EXECUTION.step(record.state, Step.START), "started_at": now}
            return record.begin_attempt("w", now).model_copy(update=changes)

        await self.bench.deps.records.change(PROJECT, self.id, started)

    @asynccontextmanager
    async def run(self, *, raises: Exception | None = None) -> AsyncIterator[Scene]:
        """Yield an execution in its first attempt on a worker; at the end the agent is done, or `raises`."""
        async with scene(self.tmp_path) as made:
            gate = asyncio.Event()

            async def work(*_: Any) -> None:
                await gate.wait()
                if raises is not None:
                    raise raises

            made.turn.script = work
            self.bench, self.id = made.bench, made.execution
            running = made.begin()
            await made.begun()
            yield made
            gate.set()
            await asyncio.wait({running}, timeout=5)
            assert running.done()
            running.exception()

    async def create(self) -> None:
        await session(self.bench.deps, request(self.bench, "create", self.id))

    async def deliver_without_store(self, event: Event) -> None:
        """The session's removal breaks off after its first step."""

        class Down(MemoryStore):
            async def delete_prefix(self, prefix: str) -> int:
                raise Unavailable("S3 does not answer")

        with pytest.raises(Unavailable):
            await session(replace(self.bench.deps, store=Down()), event)


@row(EXECUTION, None, Step.ACCEPT)
async def accept(s: Subject) -> AsyncIterator[None]:
    yield
    await submit(s.bench.deps, s.bench.submit(s.id))


@row(EXECUTION, None, Step.REJECT)
async def reject(s: Subject) -> AsyncIterator[None]:
    yield
    await submit(s.bench.deps, s.bench.raw_submit({"prompt": 1}, PROJECT, s.id))


@row(EXECUTION, State.PENDING, Step.REJECT)
async def reject_dead_letter(s: Subject) -> AsyncIterator[None]:
    event = s.bench.submit(s.id)
    await submit(s.bench.deps, event)
    await s.bench.bus.purge(subjects.COMMANDS, subjects.command("execute", PROJECT, s.id))
    yield
    refusal = Refusal([FieldError(field="data", message="is a dead letter")], event, "1")
    await s.bench.deps.rejections.reject_submit(ExecutionRef(PROJECT, s.id), refusal)


@row(EXECUTION, State.PENDING, Step.START)
@row(ATTEMPT, None, AttemptStep.START)
async def start(s: Subject) -> AsyncIterator[None]:
    async with scene(s.tmp_path) as made:
        s.bench, s.id = made.bench, made.execution
        yield
        made.begin()
        await made.begun()
        yield


@row(EXECUTION, State.PENDING, Step.CANCEL)
async def cancel_pending(s: Subject) -> AsyncIterator[None]:
    await submit(s.bench.deps, s.bench.submit(s.id))
    yield
    await s.cancel()


class Flaky(MemoryBucket):
    """A bucket that can refuse writes."""

    down = False

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        if self.down:
            raise Unavailable("NATS does not answer")
        return await super().update(key, value, revision, ttl=ttl)


@row(EXECUTION, State.PENDING, Step.FAIL)
async def fail_pending(s: Subject) -> AsyncIterator[None]:
    """Its session is destroyed before it has joined."""
    sessions = Flaky(s.clock)
    s.bench = replace(s.bench, deps=replace(s.bench.deps, sessions=sessions))
    other = str(uuid.uuid4())
    await session(s.bench.deps, request(s.bench, "create", other))
    event = s.bench.submit(s.id, session_id=other)
    sessions.down = True
    with pytest.raises(Unavailable):
        await submit(s.bench.deps, event)
    sessions.down = False
    yield
    await session(s.bench.deps, request(s.bench, "destroy", other))
    await submit(s.bench.deps, event)


@row(EXECUTION, State.PENDING, Step.TIME_OUT)
async def time_out_pending(s: Subject) -> AsyncIterator[None]:
    await submit(s.bench.deps, s.bench.submit(s.id))
    yield
    await s.sweep_after(timedelta(days=3))


@row(EXECUTION, State.RUNNING, Step.START)
async def start_again(s: Subject) -> AsyncIterator[None]:
    async with scene(s.tmp_path) as made:
        s.bench, s.id = made.bench, made.execution
        made.begin()
        await made.begun()
        yield
        await made.worker.stop()
        made.worker = worker_on(made.bench.deps, made.turn)
        made.begin()

        async def second() -> bool:
            return len((await made.record()).attempts) == 2

        await made.until(second, "second attempt")
        yield


@row(EXECUTION, State.RUNNING, Step.COMPLETE)
@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.COMPLETE)
async def complete(s: Subject) -> AsyncIterator[None]:
    async with s.run():
        yield


@row(EXECUTION, State.RUNNING, Step.FAIL)
@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.FAIL)
async def fail(s: Subject) -> AsyncIterator[None]:
    async with s.run(raises=AgentFailed(Reason.AGENT_ERROR, "it broke")):
        yield


@row(EXECUTION, State.RUNNING, Step.CANCEL)
@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.CANCEL)
async def cancel_running(s: Subject) -> AsyncIterator[None]:
    async with s.run() as made:
        yield
        await made.cancel()

        async def ended() -> bool:
            return (await made.record()).terminal

        await made.until(ended, "cancelled")


@row(EXECUTION, State.RUNNING, Step.TIME_OUT)
@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.TIME_OUT)
async def time_out(s: Subject) -> AsyncIterator[None]:
    await s.lose_worker(max_attempts=2)
    yield
    await s.sweep_after(timedelta(days=3))


@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.LOSE_WORKER)
async def lose_worker(s: Subject) -> AsyncIterator[None]:
    await s.lose_worker()
    yield
    await s.sweep_after(timedelta(minutes=5))


@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.RELEASE)
async def release(s: Subject) -> AsyncIterator[None]:
    async with s.run() as made:
        yield
        await made.worker.stop()


@row(ATTEMPT, AttemptState.RUNNING, AttemptStep.NOT_READY)
async def not_ready(s: Subject) -> AsyncIterator[None]:
    async with s.run(raises=AgentNotReady(Reason.AGENT_ERROR, "not ready")):
        yield


@row(SESSION, None, SessionStep.CREATE)
async def create(s: Subject) -> AsyncIterator[None]:
    yield
    await s.create()


@row(SESSION, SessionState.OPEN, SessionStep.USE)
async def use(s: Subject) -> AsyncIterator[None]:
    await s.create()
    yield
    await session(s.bench.deps, request(s.bench, "attach", s.id, client_id="ann"))
    await submitted(s.bench, s.id)
    found = await Sessions(s.bench.deps.sessions, s.clock).get(PROJECT, s.id)
    assert found is not None
    assert len(found.clients) == len(found.queue) == 1


def _removal(before: SessionState, taken: SessionStep, command: Command, *earlier: Command) -> None:
    """Register a step of a removal. Each of `earlier` and, unless it is the last step, `command` meets no store."""

    @row(SESSION, before, taken)
    async def scenario(s: Subject) -> AsyncIterator[None]:
        await s.create()
        await s.clock.advance(101)
        for one in earlier:
            await s.deliver_without_store(one(s.bench, s.id))
        yield
        event = command(s.bench, s.id)
        await (session(s.bench.deps, event) if taken is SessionStep.REMOVE else s.deliver_without_store(event))


def destroy(b: Bench, id_: str) -> Event:
    return request(b, "destroy", id_)


_removal(SessionState.OPEN, SessionStep.EXPIRE, expiry)
_removal(SessionState.OPEN, SessionStep.DESTROY, destroy)
_removal(SessionState.EXPIRING, SessionStep.EXPIRE, expiry, expiry)
_removal(SessionState.EXPIRING, SessionStep.DESTROY, destroy, expiry)
_removal(SessionState.DESTROYING, SessionStep.DESTROY, destroy, destroy)
_removal(SessionState.DESTROYING, SessionStep.EXPIRE, expiry, destroy)
_removal(SessionState.EXPIRING, SessionStep.REMOVE, expiry, expiry)
_removal(SessionState.DESTROYING, SessionStep.REMOVE, destroy, destroy)


@pytest.mark.parametrize(
    ("cycle", "before", "taken"),
    [(cycle, *key) for cycle in CYCLES for key in cycle.table],
    ids=lambda value: getattr(value, "name", "none"),
)
async def test_the_product_takes_every_row(
    cycle: LifeCycle[Any, Any], before: StrEnum | None, taken: StrEnum, tmp_path: Path
) -> None:
    """No row is only drawn: a handler, the sweep or a worker brings an entity from its first state to its second."""
    s = Subject(tmp_path)
    state = {"execution": s.execution, "attempt": s.attempt, "session": s.session}[cycle.name]
    scenario = ROWS[cycle.name, before, taken](s)
    await anext(scenario)
    assert await state() == before
    await anext(scenario, None)
    assert await state() == cycle.table[before, taken]
    assert [None async for _ in scenario] == []
