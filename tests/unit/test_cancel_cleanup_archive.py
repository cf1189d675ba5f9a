"""What happens around a run: cancel, clean up, sweep, archive."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ocf.events import subjects
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.command_publisher import NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.errors import Conflict, Drop, NotYetKnown, Unavailable
from ocf.events.execution_record import Attempt, Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Completed
from ocf.events.lifecycle import AttemptState, State, Step
from ocf.events.ports import Message
from ocf.functions.archive.handler import MAX_WAIT
from ocf.functions.core.cleanup_schedules import SWEEP
from ocf.functions.core.lease_lookup import RECHECK_SECONDS
from ocf.functions.recording.line_types import VERSION, CallLine, Head, frame
from ocf.functions.recording.recorded_calls_reader import load
from tests.support.clock import ManualClock
from tests.support.handlers import archive, cancel, cleanup, submit
from tests.support.parts import PROJECT, Bench, bench, instead


def request(b: Bench, execution: str):
    return b.command("dev.ocf.task.cancel.v1", Cancel(execution_id=execution, project_id=PROJECT, why="enough"))


def clean(b: Bench, execution: str, scope: str = "everything"):
    project = PROJECT if scope == "everything" else subjects.SYSTEM_PROJECT
    return b.command("dev.ocf.task.cleanup.v1", Cleanup(execution_id=execution, project_id=project, scope=scope))


async def pending(b: Bench) -> str:
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    return execution


async def running(b: Bench, *, max_attempts: int = 1) -> str:
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution, retry={"max_attempts": max_attempts}))
    now = b.deps.clock.now()

    def started(record: Record) -> Record:
        attempts = [Attempt(number=1, worker="w", started_at=now)]
        return record.model_copy(update={"state": State.RUNNING, "attempts": attempts, "started_at": now})

    await b.deps.records.change(PROJECT, execution, started)
    return execution


async def completed(b: Bench, chunks: int = 3) -> str:
    execution = await running(b)
    for seq in range(1, chunks + 1):
        chunk = {"seq": seq, "type": "text", "data": f"{seq}", "timestamp": "2026-01-01T00:00:00Z", "attempt": 1}
        headers = {"ce-sequence": str(seq)}
        await b.bus.publish(subjects.output(PROJECT, execution), json.dumps(chunk).encode(), headers)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5, last_sequence=chunks)
    await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    return execution


async def test_the_recording_is_joined_from_its_objects_and_they_are_removed() -> None:
    """One object in the archive, in the manifest, that states how many calls there were; the parts are gone."""
    b = bench()
    execution = await completed(b)
    ref = ExecutionRef(PROJECT, execution)
    head = Head(version=VERSION, attempt=1, key="ab" * 32, holds="answers")
    for number in (1, 2):
        line = CallLine(number=number, wire="chat", request=[], outcome="ok", answer=f"{number}")
        lines = [line] if number > 1 else [head, line]
        await b.store.put(ref.object_key(f"model/0001-{number:06d}.zst"), frame(*lines))
    await archive(b.deps, await b.fact(execution, "completed"))
    found = await load(b.store, ref)
    assert ([one.answer for one in found.calls], found.requests) == (["1", "2"], 0)
    assert not [one async for one in b.store.list(ref.object_key("model/"))]


async def test_cancel_before_the_start_ends_it() -> None:
    """Nothing has to be killed: the record ends, and the fact says why."""
    b = bench()
    execution = await pending(b)
    await cancel(b.deps, request(b, execution))
    assert await b.said(execution) == ["accepted", "cancelled"]
    assert json.loads((await b.fact(execution, "cancelled")).data)["why"] == "enough"


async def test_cancel_while_running_is_written_down_for_the_worker() -> None:
    """The worker hears it on NATS; the record tells a later attempt."""
    b = bench()
    execution = await running(b)
    await cancel(b.deps, request(b, execution))
    record = await b.deps.records.require(PROJECT, execution)
    assert (record.state, record.cancel_requested) == (State.RUNNING, True)
    assert await b.said(execution) == ["accepted"]


async def test_cancel_after_the_end_changes_nothing() -> None:
    """It is dropped, and says that it came too late."""
    b = bench()
    execution = await completed(b)
    with pytest.raises(Drop, match="completed"):
        await cancel(b.deps, request(b, execution))


async def test_cancel_of_the_unknown_comes_again() -> None:
    """Its submit may still be on the way."""
    b = bench()
    with pytest.raises(NotYetKnown):
        await cancel(b.deps, request(b, str(uuid.uuid4())))


async def test_archive_writes_what_was_said_and_then_claims_it() -> None:
    """Output, events and a manifest with their digests; then the fact."""
    b = bench()
    execution = await completed(b)
    await archive(b.deps, await terminal(b, execution))
    prefix = f"{PROJECT}/{execution}"
    lines = gzip.decompress(await b.store.get(f"{prefix}/output.ndjson.gz")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]
    manifest = json.loads(await b.store.get(f"{prefix}/manifest.json"))
    assert {o["name"] for o in manifest["objects"]} == {"output.ndjson.gz", "events.ndjson"}
    assert manifest["chunks"]["count"] == 3
    assert (await b.deps.records.require(PROJECT, execution)).archived
    assert "archived" in await b.said(execution)
    with pytest.raises(Drop):
        await archive(b.deps, await terminal(b, execution))


async def test_archived_is_said_though_the_archive_broke_off_before_it() -> None:
    """The record said so already, the fact could not be said: the next delivery does, as the manifest claims."""
    b = bench()
    execution = await completed(b)
    broken = b.having(records=instead(b.deps.records, publish_fact=_away))
    with pytest.raises(Unavailable):
        await archive(broken.deps, await terminal(b, execution))
    assert "archived" not in await b.said(execution)
    for _ in range(2):
        with pytest.raises(Drop):
            await archive(b.deps, await terminal(b, execution))
    assert (await b.said(execution)).count("archived") == 1
    manifest = json.loads(await b.store.get(f"{PROJECT}/{execution}/manifest.json"))
    said = json.loads((await b.fact(execution, "archived")).data)
    assert (said["objects"], said["chunks"]) == (manifest["objects"], 3)


async def test_archive_claims_what_a_lost_worker_had_stored() -> None:
    """Its end names no artifacts, and they are there: the manifest claims them, and nothing is left unclaimed."""
    b = bench()
    execution = await completed(b)
    prefix = f"{PROJECT}/{execution}"
    kept = await b.store.put(f"{prefix}/workspace.patch", b"+one\n")
    await b.store.put(f"{prefix}/data/command.json", b"{}")
    await archive(b.deps, await terminal(b, execution))
    claimed = {o["name"]: o for o in json.loads(await b.store.get(f"{prefix}/manifest.json"))["objects"]}
    assert set(claimed) == {"output.ndjson.gz", "events.ndjson", "workspace.patch"}
    assert claimed["workspace.patch"]["sha256"] == kept.sha256


async def _away(*_: object, **__: object) -> None:
    raise Unavailable("NATS is away")


async def test_archive_waits_until_it_can_read_the_end_it_was_given() -> None:
    """A copy of the stream that lags does not have the terminal event yet: an archive without it would be wrong."""
    b = bench()
    execution = await completed(b)
    event = await terminal(b, execution)
    last = await b.bus.last(subjects.EVENTS, f"ocf.evt.{PROJECT}.{execution}.completed")
    assert last is not None
    with pytest.raises(Unavailable, match="cannot be read yet"):
        await archive(b.deps, event.with_extensions(**{NATS_SEQUENCE: str(last.sequence + 1)}))
    await archive(b.deps, event.with_extensions(**{NATS_SEQUENCE: str(last.sequence)}))
    assert "archived" in await b.said(execution)


async def terminal(b: Bench, execution: str, what: str = "completed"):
    fact = await b.fact(execution, what)
    return fact.with_extensions(**{NATS_SUBJECT: f"ocf.evt.{PROJECT}.{execution}.{what}"})


async def test_a_redriven_end_is_archived_and_did_not_happen_twice() -> None:
    """It lies on a subject for archive alone; the archive's events have it once."""
    b = bench()
    execution = await completed(b)
    event = await terminal(b, execution)
    subject = subjects.redelivery_subject(subjects.fact(PROJECT, execution, "completed"), "archive")
    sequence = await b.bus.publish(subject, event.data, event.headers())
    await archive(b.deps, event.with_extensions(**{NATS_SEQUENCE: str(sequence)}))
    lines = (await b.store.get(f"{PROJECT}/{execution}/events.ndjson")).splitlines()
    assert sum(json.loads(line)["type"] == "dev.ocf.task.completed.v1" for line in lines) == 1


async def test_archive_waits_for_output_that_is_missing() -> None:
    """A gap is never archived as if it were none."""
    b = bench()
    execution = await completed(b)
    kept = b.bus._streams[subjects.OUTPUT].messages
    lost = kept.pop(1)
    with pytest.raises(Unavailable, match="chunk 2"):
        await archive(b.deps, await terminal(b, execution))
    assert await b.store.head(f"{PROJECT}/{execution}/manifest.json") is None
    kept.append(lost)  # late, so out of order in the stream; in order in the archive
    await archive(b.deps, await terminal(b, execution))
    lines = gzip.decompress(await b.store.get(f"{PROJECT}/{execution}/output.ndjson.gz")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]


async def test_a_late_archive_states_no_gap_for_what_a_lagging_copy_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 was away for longer than the archive waits for output, and the copy that answers first lags behind."""
    clock = ManualClock()
    b = bench(clock)
    execution = await completed(b)
    event = await terminal(b, execution)
    await clock.advance((MAX_WAIT + timedelta(minutes=5)).total_seconds())
    whole = b.bus.history

    async def lagging(stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        found = [message async for message in whole(stream, subject, after=after)]
        for message in found[: -1 if stream == subjects.OUTPUT else None]:
            yield message

    monkeypatch.setattr(b.bus, "history", lagging)
    with pytest.raises(Unavailable, match="cannot be read to its end yet"):
        await archive(b.deps, event)
    monkeypatch.setattr(b.bus, "history", whole)
    await archive(b.deps, event)
    lines = gzip.decompress(await b.store.get(f"{PROJECT}/{execution}/output.ndjson.gz")).splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["text"] * 3


async def test_cleanup_leaves_nothing_but_the_fact_that_it_was() -> None:
    """Record, objects, output, events and commands are gone; `cleaned` counts them."""
    b = bench()
    execution = await completed(b)
    await archive(b.deps, await terminal(b, execution))
    await cleanup(b.deps, clean(b, execution))
    assert await b.deps.records.get(PROJECT, execution) is None
    assert [o async for o in b.store.list(f"{PROJECT}/{execution}/")] == []
    assert await b.bus.last(subjects.OUTPUT, subjects.output(PROJECT, execution)) is None
    assert await b.said(execution) == ["cleaned"]
    removed = json.loads((await b.fact(execution, "cleaned")).data)["removed"]
    assert (removed["records"], removed["objects"], removed["output"]) == (1, 3, 3)
    await cleanup(b.deps, clean(b, execution))
    assert await b.said(execution) == ["cleaned"]


async def test_cleanup_of_what_runs_cancels_it_first() -> None:
    """A deletion never leaves a process behind: it asks for the end, and comes again."""
    b = bench()
    execution = await running(b)
    with pytest.raises(Conflict, match="cancelled first"):
        await cleanup(b.deps, clean(b, execution))
    assert len(await b.commands("cancel", execution)) == 1
    assert await b.deps.records.get(PROJECT, execution) is not None
    await cancel(b.deps, (await b.commands("cancel", execution))[0].with_extensions(natssubject=_cancel_of(execution)))
    with pytest.raises(Conflict, match="cancelled first"):
        await cleanup(b.deps, clean(b, execution))
    assert len(await b.commands("cancel", execution)) == 1, "it is told already"


def _cancel_of(execution: str) -> str:
    return subjects.command("cancel", PROJECT, execution)


async def test_the_sweep_ends_a_run_whose_worker_is_gone() -> None:
    """No lease, no attempt left: failed with worker_lost, and one terminal fact."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b)
    await clock.advance(timedelta(seconds=30).total_seconds())
    sweeping = await swept_once(b, clock)
    assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING
    await clock.advance(RECHECK_SECONDS)
    await sweeping
    record = await b.deps.records.require(PROJECT, execution)
    assert (record.state, record.reason) == (State.FAILED, "worker_lost")
    assert (await b.said(execution)).count("failed") == 1


async def swept_once(b: Bench, clock: ManualClock) -> asyncio.Task[None]:
    """A sweep that has looked once, and waits to look again."""
    sweeping = asyncio.create_task(cleanup(b.deps, clean(b, SWEEP.entity, "sweep")))
    while not clock.sleepers:
        await asyncio.sleep(0)
    return sweeping


async def swept(b: Bench, clock: ManualClock) -> None:
    """A whole sweep, in which something is looked at twice or nothing is."""
    sweeping = asyncio.create_task(cleanup(b.deps, clean(b, SWEEP.entity, "sweep")))
    while not sweeping.done():
        await clock.advance(RECHECK_SECONDS)
    await sweeping


async def test_the_sweep_leaves_further_attempts_their_time() -> None:
    """Handed on, or lost with an attempt left: it may wait behind full slots for as long as its time lasts."""
    clock = ManualClock()
    b = bench(clock)
    ids = [await running(b), await running(b, max_attempts=2)]
    now = clock.now()

    def handed_on(record: Record) -> Record:
        given = record.attempts[0].model_copy(update={"ended_at": now, "ended": AttemptState.RELEASED})
        return record.model_copy(update={"attempts": [given]})

    await b.deps.records.change(PROJECT, ids[0], handed_on)
    records = [await b.deps.records.require(PROJECT, execution) for execution in ids]
    await clock.advance(records[0].timeout_seconds + 60)
    await swept(b, clock)
    for execution in ids:
        assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING
    await clock.advance(180)
    await swept(b, clock)
    for execution in ids:
        assert (await b.deps.records.require(PROJECT, execution)).state is State.TIMED_OUT


async def test_the_sweep_ends_what_is_cancelled_and_waits_for_a_further_attempt() -> None:
    """No worker is there to hear it, and the next attempt would only end it."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b, max_attempts=2)
    await cancel(b.deps, request(b, execution))
    await clock.advance(30)
    await swept(b, clock)
    assert (await b.deps.records.require(PROJECT, execution)).state is State.CANCELLED
    assert (await b.said(execution)).count("cancelled") == 1


async def test_the_sweep_waits_for_a_worker_that_was_cut_off() -> None:
    """NATS was away for longer than a lease lives; the worker takes its own again, and the run goes on."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b)
    await clock.advance(30)
    sweeping = await swept_once(b, clock)
    await b.deps.executions.create(ExecutionRef(PROJECT, execution).lease_key, b"{}", ttl=10)
    await clock.advance(RECHECK_SECONDS)
    await sweeping
    assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING


async def test_the_sweep_leaves_what_has_moved_since_it_looked() -> None:
    """The worker has taken the execution again and marked its record, and its lease cannot be seen: no end is said."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b)
    await clock.advance(30)
    sweeping = await swept_once(b, clock)
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy())
    await clock.advance(RECHECK_SECONDS)
    await sweeping
    assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING


async def test_the_sweep_leaves_a_run_with_a_lease_alone() -> None:
    """However old the record is: its worker lives."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b)
    await clock.advance(300)
    await b.deps.executions.create(ExecutionRef(PROJECT, execution).lease_key, b"{}", ttl=10)
    await cleanup(b.deps, clean(b, SWEEP.entity, "sweep"))
    assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING


async def test_the_sweep_says_what_was_decided_but_not_said() -> None:
    """A crash between the record and the fact is made good."""
    b = bench()
    execution = await running(b)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5)
    await b.deps.records.change(
        PROJECT, execution, lambda r: b.deps.records.apply_terminal_step(r, Step.COMPLETE, fact)
    )
    assert "completed" not in await b.said(execution)
    await cleanup(b.deps, clean(b, SWEEP.entity, "sweep"))
    assert (await b.said(execution)).count("completed") == 1
    assert (await b.deps.records.require(PROJECT, execution)).outbox == []


async def test_the_schedule_ends_when_nothing_is_open() -> None:
    """So that the cleanup function can scale to zero; the next submit brings it back."""
    b = bench()
    execution = await pending(b)
    assert await b.bus.last(subjects.COMMANDS, SWEEP.subject) is not None
    await cancel(b.deps, request(b, execution))
    await cleanup(b.deps, clean(b, SWEEP.entity, "sweep"))
    assert await b.bus.last(subjects.COMMANDS, SWEEP.subject) is None
