"""Terminal facts: one composer, and every record, fact and outbox entry fits in one NATS message."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events import terminal_facts
from ocf.events.execution_record import Attempt, OutboxEntry, Record
from ocf.events.fact_payloads import (
    Artifact,
    ChangedFile,
    Completed,
    DiffSummary,
    Failed,
    FieldError,
    Outcome,
    Rejected,
)
from ocf.events.lifecycle import Reason, State, Step
from ocf.events.output import PendingRequest, TodoItem, Usage
from ocf.events.untrusted_json import RECORD_BYTES, json_size, shorten
from ocf.functions.submit import handler as submitting
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, submit
from tests.support.parts import PROJECT, Bench, bench
from tests.unit.test_cancel_cleanup_archive import clean, pending, request, running, swept

CHINESE = "好" * 100_000


def changed(paths: list[str]) -> DiffSummary:
    files = [ChangedFile(path=path, change="added", additions=1, deletions=0) for path in paths]
    return DiffSummary(files=len(files), additions=len(files), changed=files)


#: 40 files under control-character paths; 1,000 files with Chinese names.
CONTROL = changed(["\u0001" * 4000 + str(number) for number in range(40)])
NAMES = changed([f"{'文件夹' * 80}/{number}" for number in range(1000)])
WORK = {
    "control-character paths": terminal_facts.Work(diff=CONTROL, result="done"),
    "Chinese names and answer": terminal_facts.Work(diff=NAMES, result=CHINESE),
    "all of it is escapes": terminal_facts.Work(
        diff=CONTROL, result='"\\\u0001' * 200_000, artifacts_message="\u0001" * 99_999
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("taken", [Step.COMPLETE, Step.FAIL, Step.CANCEL, Step.TIME_OUT])
async def test_an_end_of_any_size_happens(work: terminal_facts.Work, taken: Step) -> None:
    """It is recorded, its fact is said, shortened and saying so, and the execution can be deleted."""
    b = bench()
    execution = await running(b)
    ending = terminal_facts.Ending(taken, "\u0001" * 500_000, Reason.AGENT_ERROR, ["\u0001" * 8000] * 50)

    def decide(record: Record) -> tuple[Step, Outcome]:
        return taken, terminal_facts.compose(record, ending, b.deps.clock.now(), work=work)

    record = await b.deps.records.end(PROJECT, execution, decide, None)
    assert record.terminal
    assert record.outbox == []
    said = json.loads((await b.fact(execution, record.state.value)).data)
    assert said["diff"]["files"] == work.diff.files
    assert said["diff"]["truncated"] is True
    assert len(said["diff"]["changed"]) < work.diff.files
    if len(work.result) > 10:
        assert said["result"].endswith(f"… (shortened; {len(work.result.encode())} bytes in all)")
        assert said["result_bytes"] == record.result_bytes == len(work.result.encode())
    await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update={"archived": True}))
    await cleanup(b.deps, clean(b, execution))
    assert await b.deps.records.get(PROJECT, execution) is None


async def test_progress_of_a_running_agent_fits_the_record() -> None:
    """A todo list, a question and changed files of megabytes shorten each other, and the record goes on."""
    b = bench()
    execution = await running(b)
    todo = [TodoItem(content="\u0001" * 50_000, status="pending")] * 50
    waiting = PendingRequest(
        request_id="r", kind="question", title="\u0002" * 400_000, options=["\u0003" * 100_000] * 9
    )
    updates: dict[str, Any] = {"todo": todo, "waiting_for": waiting, "diff": CONTROL, "result": CHINESE}
    record = await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update=updates))
    assert record.state is State.RUNNING
    assert len(record.model_dump_json(exclude_defaults=True).encode()) <= RECORD_BYTES
    assert record.waiting_for is not None
    assert record.waiting_for.request_id == "r"


async def test_an_outbox_of_an_earlier_release_that_fits_in_no_message_is_said_smaller() -> None:
    """The record is there already: its fact loses its lists and texts, and is published."""
    b = bench()
    execution = await running(b)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5, result=CHINESE, diff=NAMES)
    boxed = OutboxEntry(
        type="dev.ocf.task.completed.v1",
        id=str(uuid.uuid4()),
        time=b.deps.clock.now(),
        data=fact.model_dump_json(exclude_none=True) + " " * 1024 * 1024,
    )
    record = (await b.deps.records.require(PROJECT, execution)).model_copy(
        update={"state": State.COMPLETED, "outbox": [boxed]}
    )
    assert (await b.deps.records.publish_outbox(record)).outbox == []
    assert json.loads((await b.fact(execution, "completed")).data)["attempt"] == 1


async def test_a_rejection_names_as_many_fields_as_fit() -> None:
    """Twenty thousand wrong fields: the first are named, the last entry counts the rest."""
    b, execution = bench(), str(uuid.uuid4())
    errors = [FieldError(field="permissions." + "\u0001" * 200, message="is none")] * 20_000
    cause = b.submit(execution)
    await b.deps.records.reject(Rejected(execution_id=execution, project_id=PROJECT, errors=errors), cause, key="k")
    said = json.loads((await b.fact(execution, "rejected")).data)["errors"]
    assert len(said) <= terminal_facts.MAX_ERRORS + 1
    assert said[-1]["message"] == f"{20_000 - len(said) + 1} more fields are wrong"


@given(st.text(), st.integers(0, 300))
def test_a_shortened_text_takes_no_more_than_its_limit(text: str, limit: int) -> None:
    """In bytes of JSON, whatever characters it has; one that fits is not touched."""
    short = shorten(text, limit)
    assert short == text if json_size(text) <= limit else json_size(short) <= limit


async def _by_the_worker(b: Bench, execution: str, work: terminal_facts.Work | None) -> Outcome:
    record = await b.deps.records.require(PROJECT, execution)
    return terminal_facts.compose(record, terminal_facts.Ending(Step.COMPLETE), b.deps.clock.now(), work=work)


async def test_all_who_end_an_execution_count_alike() -> None:
    """The worker, the sweep, a cancel of what runs and of what waits: one attempt number, times and usage for each."""
    clock = ManualClock()
    b = bench(clock)
    execution = await pending(b)
    await clock.advance(7)
    usage = Usage(requests=3, input_tokens=5)

    def started(record: Record) -> Record:
        attempts = [Attempt(number=1, worker="w", started_at=clock.now())]
        changes = {"state": State.RUNNING, "attempts": attempts, "started_at": clock.now(), "usage": usage}
        return record.model_copy(update=changes)

    await b.deps.records.change(PROJECT, execution, started)
    await clock.advance(40)
    expected = await _by_the_worker(b, execution, terminal_facts.Work(usage=usage, waited_ms=1000))
    assert (expected.queued_ms, expected.duration_ms, expected.waited_ms) == (7000, 39_000, 1000)
    assert (expected.attempt, expected.usage, expected.artifacts) == (1, usage, "stored")
    await swept(b, clock)
    said = Failed.read((await b.fact(execution, "failed")).data)
    ended = await b.deps.records.require(PROJECT, execution)
    assert ended.ended_at is not None
    assert ended.started_at is not None
    ran = terminal_facts.milliseconds(ended.ended_at - ended.started_at)
    assert (said.queued_ms, said.duration_ms, said.attempt, said.usage) == (7000, ran, 1, usage)
    assert (said.artifacts, said.reason) == ("lost", Reason.WORKER_LOST)
    assert said.artifacts_message


@pytest.mark.parametrize("who", ["cancel", "sweep", "submit"])
async def test_execution_that_never_started_has_queue_time_and_no_lost_artifacts(who: str) -> None:
    """`queued_ms` is the time to the end, `duration_ms` and the attempt are 0, and there is nothing to store."""
    clock = ManualClock()
    b = bench(clock)
    if who == "submit":
        execution = str(uuid.uuid4())
        event = b.submit(execution)
        record = await _recorded(b, execution)
        await clock.advance(9)
        await submitting.fail(b.deps.records, event, record, "session is gone", clock.now())
    else:
        execution = await pending(b)
        await clock.advance(9)
        if who == "cancel":
            await cancel(b.deps, request(b, execution))
        else:
            await clock.advance(timedelta(days=2).total_seconds())
            await swept(b, clock)
    ended = await b.deps.records.require(PROJECT, execution)
    said = Outcome.model_validate_json((await b.fact(execution, ended.state.value)).data, extra="ignore")
    assert ended.ended_at is not None
    assert said.queued_ms == terminal_facts.milliseconds(ended.ended_at - ended.submitted_at) >= 9000
    assert (said.duration_ms, said.attempt, said.artifacts, said.objects) == (0, 0, "stored", [])


async def _recorded(b: Bench, execution: str) -> Record:
    await submit(b.deps, b.submit(execution))
    return await b.deps.records.require(PROJECT, execution)


def test_a_fact_of_an_earlier_release_is_read() -> None:
    """Its `artifacts` is the list of objects."""
    one = Artifact(name="workspace.patch", size=1, sha256="00")
    old = {
        "execution_id": str(uuid.uuid4()), "project_id": PROJECT, "attempt": 1, "duration_ms": 1,
        "artifacts": [one.model_dump()],
    }  # fmt: skip
    read = Completed.read(json.dumps(old))
    assert (read.artifacts, read.objects) == ("stored", [one])
