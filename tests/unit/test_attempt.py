"""A run on one worker, with a stand-in for the agent: what it hears, how it ends, what it says of that."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.base_model import Model
from ocf.events.command_payloads import Cancel, Execute, Reply
from ocf.events.envelope import Event
from ocf.events.errors import Busy, Conflict, Drop, OcfError, Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import ChangedFile, DiffSummary
from ocf.events.lifecycle import Reason, State
from ocf.events.output import Chunk, ChunkType, Draft, Usage
from ocf.events.ports import Inbox, Message
from ocf.events.redaction import Redactor
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.recorded_replies import Replies
from ocf.functions.execute.attempt.agent_run import FOLLOW_UP
from ocf.functions.execute.attempt.outcome import StoredArtifacts
from ocf.functions.execute.attempt.runner import NOT_READY_ATTEMPTS
from ocf.functions.execute.attempt.spans import RunSpans
from ocf.functions.execute.attempt.stop_signal import Released
from ocf.functions.execute.sandbox.process import AgentNotReady
from ocf.functions.observability import metrics
from ocf.functions.publishing.publisher import ResultPublisher
from tests.support.handlers import cancel, submit
from tests.support.measures import value
from tests.support.parts import PROJECT, Bench, bench
from tests.support.runs import worker_on

Emit = Callable[[Draft], Awaitable[None]]


class StandIn:
    """The agent's side. `script` is what it does; without one it works until it is ended."""

    roots = ()
    model_name = None
    usage = Usage()
    waiting: frozenset[str] = frozenset()
    script: Callable[[Emit], Awaitable[None]] | None = None
    left = 0
    breaks: Exception | None = None
    stored = StoredArtifacts()
    prepared: object = None
    latest: StandIn

    def __init__(self, task: Execute, *_: object) -> None:
        self.redactor = Redactor()
        self.spans = RunSpans(task)
        self.result = ""
        self.output: object = None
        self.replies: list[tuple[str, str]] = []
        self.answers = Replies()
        type(self).latest = self

    async def exceeded_disk_limit(self, limit: int) -> str | None:
        """Nothing is on the disk."""
        return None

    def on_failure(self, _: object) -> None:
        """its model proxy does not fail."""

    def on_over(self, _: object) -> None:
        """It is no rerun."""

    def on_usage(self, _: object) -> None:
        """It calls no model."""

    async def run(self, emit: Emit, used: Usage) -> None:
        if self.script is None:
            await asyncio.Event().wait()
        else:
            await self.script(emit)

    async def reply(self, request_id: str, answer: str) -> bool:
        self.replies.append((request_id, answer))
        return True

    @property
    def follow_ups(self) -> int:
        return sum(request_id == FOLLOW_UP for request_id, _ in self.replies)

    def refuse(self, _: object) -> None:
        """It spends nothing."""

    async def kill(self, *, hurry: bool = True) -> int:
        return self.left

    async def store_artifacts(self, *_: object) -> StoredArtifacts:
        if self.breaks is not None:
            raise self.breaks
        return self.stored

    async def close(self) -> None:
        """It leaves nothing."""


class Scene:
    """A submitted execution and a worker for it."""

    def __init__(self, made: Bench, execution: str, event: Event, turn: type[StandIn]) -> None:
        self.bench = made
        self.execution = execution
        self.event = event
        self.turn = turn
        self.worker = worker_on(made.deps, turn)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> asyncio.Task[None]:
        """Deliver the execute command; the answer."""
        self._tasks.append(asyncio.create_task(self.worker.execute(self.event)))
        return self._tasks[-1]

    async def record(self) -> Record:
        return await self.bench.deps.records.require(PROJECT, self.execution)

    async def until(self, wanted: Callable[[], Awaitable[Any]], what: str) -> None:
        try:
            async with asyncio.timeout(5):
                while not await wanted():
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"{what}: {await self.record()}") from None

    async def begun(self) -> None:
        await self.until(lambda: self.said("started"), "started")

    async def said(self, text: str) -> bool:
        return any(text in chunk.data for chunk in await self.chunks())

    async def chunks(self) -> list[Chunk]:
        found = self.bench.bus.history(subjects.OUTPUT, subjects.output(PROJECT, self.execution))
        return [Chunk.model_validate_json(message.data) async for message in found]

    def request(self, type_: str, data: type[Model], **fields: str) -> Event:
        told = {"execution_id": self.execution, "project_id": PROJECT, **fields}
        return self.bench.command(type_, data.model_validate(told))

    async def cancel(self) -> Event:
        """Publish a cancel."""
        request = self.request("dev.ocf.task.cancel.v1", Cancel)
        await self.bench.bus.publish(
            subjects.command("cancel", PROJECT, self.execution), request.data, request.headers()
        )
        return request

    async def reply(self, request_id: str, answer: str) -> None:
        """Publish an answer or a follow-up prompt."""
        request = self.request("dev.ocf.task.reply.v1", Reply, request_id=request_id, answer=answer)
        await self.bench.bus.publish(
            subjects.command("reply", PROJECT, self.execution), request.data, request.headers()
        )

    async def close(self) -> None:
        await self.worker.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Deaf(MemoryBus):
    """Core NATS delivers nothing: whatever is said, the connection is away in that moment. The stream keeps it."""

    @asynccontextmanager
    async def listen(self, *subjects: str) -> AsyncIterator[AsyncIterator[Message]]:
        yield Inbox()


@asynccontextmanager
async def scene(tmp_path: Path, *, bus: type[MemoryBus] = MemoryBus, **request: Any) -> AsyncIterator[Scene]:
    """An execution that is accepted and whose execute command waits."""
    turn = type("Turn", (StandIn,), {})
    made = bench(SystemClock(), bus=bus, STATE_DIR=tmp_path)
    execution = str(uuid.uuid4())
    await submit(made.deps, made.submit(execution, **request))
    (event,) = await made.commands("execute", execution)
    named = event.with_extensions(natssubject=subjects.command("execute", PROJECT, execution))
    scened = Scene(made, execution, named, turn)
    try:
        yield scened
    finally:
        await scened.close()


async def test_a_cancel_before_the_worker_listens_is_obeyed(tmp_path: Path) -> None:
    """Cancelled right after the submit: the worker was not there to hear it, and the cancel function, which comes after
    the start, only marks the record. The stream has it."""
    async with scene(tmp_path) as run:
        request = await run.cancel()
        running = run.begin()
        await run.until(lambda: _state(run, State.RUNNING, State.CANCELLED), "started")
        await asyncio.wait_for(running, 5)
        assert (await run.record()).state is State.CANCELLED
        with pytest.raises(Drop):
            await cancel(run.bench.deps, request)


async def _state(run: Scene, *states: State) -> bool:
    return (await run.record()).state in states


async def test_command_lost_by_core_nats_is_read_from_the_stream(tmp_path: Path) -> None:
    """An answer and a cancel while the connection is away: each is taken once, in the order of the stream."""
    async with scene(tmp_path, bus=Deaf) as run:
        running = run.begin()
        await run.begun()
        await run.reply("ask-1", "yes")
        await run.reply("ask-2", "no")
        agent = run.turn.latest

        async def answered() -> bool:
            return len(agent.replies) == 2

        await run.until(answered, "answered")
        await run.cancel()
        await asyncio.wait_for(running, 5)
        assert agent.replies == [("ask-1", "yes"), ("ask-2", "no")]
        assert (await run.record()).state is State.CANCELLED


async def test_command_delivered_twice_is_applied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From NATS at once and from the stream a moment later: one answer."""
    async with scene(tmp_path) as run:
        run.begin()
        await run.begun()
        await run.reply("ask-1", "yes")
        looks = 0
        history = run.bench.bus.history

        def counted(stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
            nonlocal looks
            looks += stream == subjects.COMMANDS
            return history(stream, subject, after=after)

        monkeypatch.setattr(run.bench.bus, "history", counted)

        async def looked() -> bool:
            return looks > 4

        await run.until(looked, "looked")
        assert run.turn.latest.replies == [("ask-1", "yes")]


async def test_an_earlier_answer_is_not_for_a_later_attempt(tmp_path: Path) -> None:
    """A retry takes up the follow-up prompts again, and no answer to what an earlier attempt has asked."""
    async with scene(tmp_path) as run:
        for request_id, answer in (("ask-1", "yes"), (FOLLOW_UP, "and then"), (FOLLOW_UP, "at last")):
            await run.reply(request_id, answer)
        run.begin()
        await run.begun()

        async def two() -> bool:
            return len(run.turn.latest.replies) == 2

        await run.until(two, "follow-ups")
        assert run.turn.latest.replies == [(FOLLOW_UP, "and then"), (FOLLOW_UP, "at last")]


async def test_text_at_a_slow_pace_ends_at_its_limit(tmp_path: Path) -> None:
    """Each piece is published by a timer while the agent thinks of the next: too much ends the run all the same."""
    async with scene(tmp_path, limits={"max_output_bytes": 100}) as run:

        async def talk(_: StandIn, emit: Emit) -> None:
            for _piece in range(11):
                before = len(await run.chunks())
                await emit(Draft(type=ChunkType.TEXT, data="ten bytes ", merge_key="text:1"))
                await run.until(lambda before=before: _more(run, before), "the timer")  # type: ignore[misc]
            await asyncio.Event().wait()

        run.turn.script = talk
        await asyncio.wait_for(run.begin(), 10)
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.OUTPUT_LIMIT)
        kinds = [chunk.type for chunk in await run.chunks() if chunk.type is not ChunkType.STATUS]
        assert kinds == [ChunkType.TEXT] * 9 + [ChunkType.GAP]  # "started" counts as well


async def _more(run: Scene, before: int) -> bool:
    return len(await run.chunks()) > before


async def test_half_a_character_is_said_and_kept(tmp_path: Path) -> None:
    """Half a surrogate pair in the output, in a todo list and in the result loses nothing but itself."""
    async with scene(tmp_path) as run:

        async def talk(agent: StandIn, emit: Emit) -> None:
            await emit(Draft(type=ChunkType.TEXT, data="half \ud83d of it", merge_key="text:1"))
            items = [{"content": "half \ud83d", "status": "pending"}]
            await emit(Draft(type=ChunkType.TODO, data="half \ud83d", detail={"items": items}))
            agent.result = "half \ud83d"

        run.turn.script = talk
        await asyncio.wait_for(run.begin(), 5)
        record = await run.record()
        assert (record.state, record.result) == (State.COMPLETED, "half \ufffd")
        assert await run.said("half \ufffd of it")


async def test_an_error_nobody_thought_of_ends_the_run(tmp_path: Path) -> None:
    """It comes again with every attempt: the run fails and says of what kind it was, the worker goes on."""
    async with scene(tmp_path) as run:

        async def broken(_: StandIn, __: Emit) -> None:
            raise KeyError("a secret of the prompt")

        run.turn.script = broken
        await asyncio.wait_for(run.begin(), 5)
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.AGENT_ERROR)
        assert record.message == "internal error of the worker (KeyError); see its log"


async def test_an_error_nobody_thought_of_does_not_change_the_end(tmp_path: Path) -> None:
    """While its files are stored, with the agent's work done: the run has completed, and what is missing is said."""
    async with scene(tmp_path) as run:

        async def done(_: StandIn, __: Emit) -> None:
            run.turn.breaks = KeyError("a secret of the prompt")

        run.turn.script = done
        await asyncio.wait_for(run.begin(), 5)
        assert (await run.record()).state is State.COMPLETED
        (gap,) = [chunk for chunk in await run.chunks() if chunk.type is ChunkType.GAP]
        assert gap.detail == {"reason": "not_stored"}


async def test_processes_that_would_not_die_are_said(tmp_path: Path) -> None:
    """An end says that nothing is left; where something is, the terminal event and the last chunk say that."""
    async with scene(tmp_path) as run:
        run.turn.left = 2
        running = run.begin()
        await run.begun()
        await run.cancel()
        await asyncio.wait_for(running, 5)
        record = await run.record()
        assert (record.state, record.message) == (State.CANCELLED, "cancelled; 2 of its processes could not be ended")
        assert (await run.chunks())[-1].data == record.message


async def test_files_that_no_tool_reported_are_named_before_the_end(tmp_path: Path) -> None:
    """A shell command's changes are found in the workspace; a change that a tool has reported is named once."""

    async def writes(_: StandIn, emit: Emit) -> None:
        detail = {"path": "written.txt", "change": "added", "additions": 1, "deletions": 0}
        await emit(Draft(type=ChunkType.FILE_CHANGE, data="added written.txt", detail=detail))

    files = [
        ChangedFile(path="gone.txt", change="deleted", additions=0, deletions=4),
        ChangedFile(path="moved.txt", change="renamed"),
        ChangedFile(path="written.txt", change="added", additions=1, deletions=0),
    ]
    async with scene(tmp_path) as run:
        run.turn.script = writes
        run.turn.stored = StoredArtifacts(DiffSummary(files=3, changed=files))
        await asyncio.wait_for(run.begin(), 5)
        chunks = await run.chunks()
    named = [chunk for chunk in chunks if chunk.type is ChunkType.FILE_CHANGE]
    assert [chunk.data for chunk in named] == ["added written.txt", "deleted gone.txt", "added moved.txt"]
    assert named[1].detail == {"path": "gone.txt", "change": "deleted", "additions": 0, "deletions": 4}
    assert chunks[-1].detail == {"state": "completed"}


async def test_follow_ups_of_a_turn_that_fails_are_said(tmp_path: Path) -> None:
    """Follow-up prompts that were taken, and that nobody will take up, are named before the end."""
    async with scene(tmp_path) as run:

        async def fails(agent: StandIn, _: Emit) -> None:
            await run.reply(FOLLOW_UP, "and then")
            await run.until(lambda: _taken(agent), "taken")
            raise OcfError("it went wrong")

        run.turn.script = fails
        await asyncio.wait_for(run.begin(), 5)
        assert (await run.record()).state is State.FAILED
        assert [chunk.data for chunk in await run.chunks()][-2:] == ["1 follow-up prompt not taken up", "it went wrong"]


async def _taken(agent: StandIn) -> bool:
    return bool(agent.replies)


async def test_a_second_delivery_of_what_runs_here_is_told_so(tmp_path: Path) -> None:
    """The dispatcher restarted, and delivers anew: 409, and it comes again until the run has ended (then nothing is
    left to do) or was handed on (then it brings the run to another worker). The run does not notice."""
    async with scene(tmp_path) as run:
        first = run.begin()
        await run.begun()
        with pytest.raises(Conflict):
            await run.begin()
        await run.cancel()
        await first
        with pytest.raises(Drop):
            await run.begin()
    async with scene(tmp_path) as run:
        first = run.begin()
        await run.begun()
        with pytest.raises(Conflict):
            await run.begin()
        await run.worker.stop()
        with pytest.raises(Released):
            await first
        assert run.worker.draining


async def test_a_worker_takes_one_execution_at_a_time(tmp_path: Path) -> None:
    """Another one is told to wait (429), also while the first is still being looked at; afterwards it may come."""
    async with scene(tmp_path) as run:
        first = run.begin()
        other = str(uuid.uuid4())
        await submit(run.bench.deps, run.bench.submit(other))
        (event,) = await run.bench.commands("execute", other)
        await asyncio.sleep(0)
        assert run.worker.busy
        with pytest.raises(Busy):
            await run.worker.execute(event)
        await run.begun()
        with pytest.raises(Busy):
            await run.worker.execute(event)
        await run.cancel()
        await first
        assert not run.worker.busy
        second = asyncio.create_task(run.worker.execute(event))
        await asyncio.sleep(0)
        assert run.worker.busy
        await run.worker.stop()
        with pytest.raises((Released, Unavailable)):
            await second


async def test_the_same_id_in_two_projects_is_two_executions(tmp_path: Path) -> None:
    """The second is not taken for the first: it waits for a worker, and has a folder of its own."""
    async with scene(tmp_path) as run:
        first = run.begin()
        await run.begun()
        await submit(run.bench.deps, run.bench.submit(run.execution, project_id="other"))
        told = json.loads(run.event.data) | {"project_id": "other"}
        subject = ExecutionRef("other", run.execution).command("execute")
        event = replace(run.event, data=json.dumps(told).encode()).with_extensions(natssubject=subject)
        with pytest.raises(Busy):
            await run.worker.execute(event)
        await run.cancel()
        await first
        second = asyncio.create_task(run.worker.execute(event))

        async def begun() -> bool:
            record = await run.bench.deps.records.require("other", run.execution)
            return record.state is State.RUNNING

        await run.until(begun, "the other's")
        assert (await run.record()).state is State.CANCELLED
        await run.worker.stop()
        with pytest.raises(Released):
            await second


async def test_failed_start_leaves_the_worker_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is another's: the delivery is told so, and so is the next; the worker waits for neither."""
    async with scene(tmp_path) as run:

        async def taken(*_: object, **__: object) -> int:
            raise Conflict("another worker has it")

        monkeypatch.setattr(run.bench.deps.executions, "create", taken)
        for _ in range(2):
            with pytest.raises(Conflict):
                await asyncio.wait_for(run.begin(), 5)
            assert not run.worker.busy


async def test_output_is_counted_however_the_attempt_ends(tmp_path: Path) -> None:
    """An attempt that is handed on, or whose lease is lost, has said what it has said."""

    async def talk(_: StandIn, emit: Emit) -> None:
        await emit(Draft(type=ChunkType.TEXT, data="x" * 1000))
        await asyncio.Event().wait()

    for lost in (False, True):
        before = value(metrics.output_bytes)
        async with scene(tmp_path) as run:
            run.turn.script = talk
            running = run.begin()
            await run.until(lambda: run.said("xxx"), "said")
            if lost:
                assert run.worker._run is not None
                run.worker._run._lease.lost.set()
            else:
                await run.worker.stop()
            with pytest.raises(Conflict if lost else Released):
                await asyncio.wait_for(running, 5)
        assert value(metrics.output_bytes) - before >= 1000, lost


async def test_a_turn_that_waited_in_its_session_did_not_wait_for_a_worker(tmp_path: Path) -> None:
    """It was given back before its turn, perhaps for an hour; what comes the first time waited for a slot only."""

    async def done(_: StandIn, __: Emit) -> None:
        """Its work is done."""

    waits = [("s", "1", 1), ("s", "2", 0), (None, "2", 1)]
    for session, deliveries, more in waits:
        before = metrics.REGISTRY.get_sample_value("ocf_queue_wait_seconds_count") or 0.0
        async with scene(tmp_path) as run:
            run.turn.script = done
            event = run.event.with_extensions(natsdeliveries=deliveries)
            if session is not None:
                session = str(uuid.uuid4())
                event = replace(event, data=json.dumps(json.loads(event.data) | {"session_id": session}).encode())
            run.event = event
            await asyncio.wait_for(run.begin(), 5)
        assert metrics.REGISTRY.get_sample_value("ocf_queue_wait_seconds_count") == before + more, deliveries


async def test_an_opencode_that_was_not_ready_goes_back_to_the_queue(tmp_path: Path) -> None:
    """Nothing had run: the attempt does not count against `max_attempts` (1 here), the delivery comes again, and what
    is cancelled meanwhile is cancelled. After five such attempts it is no matter of a crowded machine any more."""
    async with scene(tmp_path) as run:

        async def crowded(_: StandIn, __: Emit) -> None:
            raise AgentNotReady(Reason.AGENT_ERROR, "OpenCode was not ready after 86 s", ("starting",))

        run.turn.script = crowded
        for attempts in range(1, NOT_READY_ATTEMPTS):
            with pytest.raises(Released, match="not ready after 86 s"):
                await asyncio.wait_for(run.begin(), 5)
            record = await run.record()
            assert (record.state, record.attempts_spent) == (State.RUNNING, 0)
            assert [attempt.ended for attempt in record.attempts] == ["not_ready"] * attempts
        await asyncio.wait_for(run.begin(), 5)
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.AGENT_ERROR)
        assert record.message == "OpenCode was not ready after 86 s, in 5 attempts"


async def test_agent_that_was_not_ready_completes_in_its_next_attempt(tmp_path: Path) -> None:
    """It was given back, and there was a processor for it later."""
    async with scene(tmp_path) as run:

        async def later(_: StandIn, __: Emit) -> None:
            if len((await run.record()).attempts) == 1:
                raise AgentNotReady(Reason.AGENT_ERROR, "not ready")

        run.turn.script = later
        with pytest.raises(Released):
            await asyncio.wait_for(run.begin(), 5)
        await asyncio.wait_for(run.begin(), 5)
        assert [attempt.ended for attempt in (await run.record()).attempts] == ["not_ready", "completed"]


async def test_a_released_attempt_leaves_its_usage(tmp_path: Path) -> None:
    """The model call that was cut is in the record, although nothing was written while the attempt ran."""
    async with scene(tmp_path) as run:
        run.turn.usage = Usage(requests=1, input_tokens=70, output_tokens=7)
        running = run.begin()
        await run.begun()
        await run.worker.stop()
        with pytest.raises(Released):
            await asyncio.wait_for(running, 5)
        record = await run.record()
        assert ([one.ended for one in record.attempts], record.usage) == (["handed_on"], run.turn.usage)


async def test_an_execution_does_not_run_on_unwatched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the watchdog itself breaks, the run ends and says so: no bound would hold any more."""

    async def broken(*_: object) -> None:
        raise KeyError("a path")

    monkeypatch.setattr("ocf.functions.execute.attempt.watchdog.watch", broken)
    async with scene(tmp_path) as run:
        await asyncio.wait_for(run.begin(), 5)
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.AGENT_ERROR)
        assert record.message == "internal error of the worker (KeyError); see its log"


async def test_an_execution_does_not_run_on_when_its_commands_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the reader of commands itself breaks, the run ends and says so: nobody could cancel it any more."""
    async with scene(tmp_path) as run:
        running = run.begin()
        await run.begun()

        def broken(*_: object, **__: object) -> AsyncIterator[Message]:
            raise KeyError("a subject")

        monkeypatch.setattr(run.bench.bus, "history", broken)
        await asyncio.wait_for(running, 5)
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.AGENT_ERROR)
        assert record.message == "internal error of the worker (KeyError); see its log"


@pytest.mark.parametrize("method", ["history", "publish"])
async def test_nats_that_is_away_for_a_moment_at_the_start_spends_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The attempt is recorded already. Commands are read and `started` is published as soon as NATS is back."""
    async with scene(tmp_path) as run:
        working, broken = getattr(run.bench.bus, method), []

        def away(place: str, *arguments: Any, **options: Any) -> Any:
            if not broken and (place == subjects.COMMANDS or place.endswith(".started")):
                broken.append(place)
                raise Unavailable("no answer")
            return working(place, *arguments, **options)

        async def nothing(_: Emit) -> None:
            """End at once."""

        monkeypatch.setattr(run.bench.bus, method, away)
        run.turn.script = staticmethod(nothing)
        await asyncio.wait_for(run.begin(), 10)
        record = await run.record()
        assert (broken != [], record.state, len(record.attempts)) == (True, State.COMPLETED, 1)


async def test_a_commit_status_that_cannot_be_set_leaves_the_end_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS or S3 is away when the session's earlier commits are looked for: the run failed for its own reason."""

    async def away(*_: object) -> None:
        raise Unavailable("no answer")

    async def fails(_: Emit) -> None:
        raise OcfError("it went wrong")

    async with scene(tmp_path) as run:
        monkeypatch.setattr(ResultPublisher, "set_status", away)
        run.turn.script = staticmethod(fails)
        await asyncio.wait_for(run.begin(), 5)
        record = await run.record()
        assert (record.state, record.message) == (State.FAILED, "it went wrong")
