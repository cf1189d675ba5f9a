"""kill -9 of each process of the stack while executions run; the stack starts it again."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from ocf.events.execution_record import Record
from ocf.events.output import Chunk
from tests.support.stack import Project, Stack, gapless

#: About six seconds of talk, so that whatever is killed is away in the middle of it.
TALK: list[dict[str, Any]] = [
    {"write": {"path": "notes.md", "content": "one\n"}},
    {"text": "the quick brown fox ", "delay": 0.2, "times": 30},
    {"text": "THE END"},
]
TERMINAL = {"completed", "failed", "cancelled", "timed_out"}
#: A lease lives ten seconds; the next delivery may be as far away again. And the machine may be busy.
PATIENCE = 75.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def watched(project: Project, execution: str) -> list[Chunk]:
    """What a client sees that watches from the start to the end."""
    return [chunk async for chunk in project.client.watch(execution)]


async def through(project: Project, kill: str, *tasks: dict[str, Any]) -> list[tuple[Record, list[Chunk]]]:
    """Submit the tasks, kill a process while all of them talk; each record and what its watcher saw."""
    ids = [await project.submit(task.pop("steps"), **task) for task in tasks]
    watchers = [asyncio.create_task(watched(project, execution)) for execution in ids]
    try:
        for execution in ids:
            await project.running(execution, "quick")
        agents = project.stack.children()
        assert len(agents) > len(ids)
        pid = project.stack.kill(kill)
        records = [await project.archived(execution, PATIENCE) for execution in ids]
        async with asyncio.timeout(PATIENCE):
            seen = await asyncio.gather(*watchers)
        await project.stack.back(kill, pid)
    finally:
        for watcher in watchers:
            watcher.cancel()
    assert [child for child in agents if child.is_running() and child.status() != "zombie"] == []
    for record, chunks in zip(records, seen, strict=True):
        facts = await project.facts(record.execution_id)
        assert len([fact for fact in facts if fact in TERMINAL]) == 1, facts
        assert gapless(chunks)
        kept = await project.archive(record.execution_id)
        assert kept == chunks
        assert len(kept) == record.last_sequence
        in_stream = {chunk.seq: chunk for chunk in await project.chunks(record.execution_id)}
        assert [in_stream[chunk.seq] for chunk in kept] == kept
    return list(zip(records, seen, strict=True))


@pytest.mark.parametrize("name", ["nats", "s3", "dispatcher", "control"])
async def test_run_completes_after_any_part_is_killed(project: Project, name: str) -> None:
    """The bus, the archive's store, the dispatcher, or submit, cancel, cleanup, archive and gateway die in mid-run: the
    executions complete in their first attempt, nothing that was said is missing, watchers see no gap."""
    for record, chunks in await through(project, name, {"steps": TALK}, {"steps": TALK}):
        assert (record.state, len(record.attempts)) == ("completed", 1), record
        assert "".join(chunk.data for chunk in chunks if chunk.type == "text").endswith("THE END")
        assert {"workspace.patch", "workspace.tar.zst"} <= await project.objects(record.execution_id)


async def test_a_worker_is_lost(project: Project) -> None:
    """Execute is killed with five runs. Without an attempt left: `failed` with `worker_lost`, and what was said until
    then is archived. With one: the second completes, numbers go on where they were, both attempts are kept. The agents
    and their daemonised children die with their worker. All of them have ended within a minute."""
    endless = {"text": "the quick brown fox ", "delay": 0.2, "times": 3000}
    daemons = {"daemons": {"count": 5, "seconds": 600}}
    # Twice as long as the others need to begin.
    twice = {"steps": [daemons, *TALK[:2], *TALK[1:]], "retry": {"max_attempts": 2}}
    ended = await through(
        project,
        "execute",
        {"steps": [endless]},
        {"steps": [daemons, endless]},
        {"steps": [daemons, endless]},
        twice,
        dict(twice),
    )
    for record, said in ended[:3]:
        assert (record.state, record.reason) == ("failed", "worker_lost"), record
        assert [attempt.ended for attempt in record.attempts] == ["worker_lost"]
        assert any("quick" in chunk.data for chunk in said)
    for record, said in ended[3:]:
        assert record.state == "completed", record
        assert [attempt.ended for attempt in record.attempts] == ["worker_lost", "completed"]
        assert record.attempts[0].worker != record.attempts[1].worker
        assert [chunk.attempt for chunk in said] == sorted(chunk.attempt for chunk in said)
        assert {chunk.attempt for chunk in said} == {1, 2}
    for record, said in ended:
        last_word = max(chunk.timestamp for chunk in said if chunk.attempt == 1 and "quick" in chunk.data)
        assert record.ended_at is not None
        assert (record.ended_at - last_word).total_seconds() < 60


async def test_a_terminated_worker_lets_short_work_finish_and_hands_on_the_rest(stack: Stack, project: Project) -> None:
    """SIGTERM drains execute: what ends within the grace (3 s here) completes in its first attempt, the rest is
    stopped, handed on and completed by the next worker; that costs no attempt of `max_attempts` (1 here)."""
    # Twenty seconds: the start of the short one takes some of them on a busy machine.
    long = await project.submit([{"text": "first words "}, {"text": "more and more ", "delay": 0.1, "times": 200}])
    await project.running(long, "more")
    short = await project.submit([{"text": "short words", "chunk": 1, "delay": 0.1}])
    await project.running(short, "s")
    pid = stack.kill("execute", signal.SIGTERM)
    ended = await project.ended(short, PATIENCE)
    assert (ended.state, len(ended.attempts)) == ("completed", 1)
    ended = await project.ended(long, PATIENCE)
    assert ended.state == "completed"
    assert [attempt.ended for attempt in ended.attempts] == ["handed_on", "completed"]
    await stack.back("execute", pid)


async def test_a_terminated_worker_lets_work_finish_that_no_request_waits_for(stack: Stack, project: Project) -> None:
    """In the drain of a node the dispatcher goes with the worker: the request breaks off, and the run that it held is
    given its grace all the same, and completes in its first attempt."""
    execution = await project.submit([{"text": "first words "}, {"text": "more ", "delay": 0.1, "times": 12}])
    await project.running(execution, "first words")
    dispatcher, pid = stack.kill("dispatcher"), stack.kill("execute", signal.SIGTERM)
    ended = await project.ended(execution, PATIENCE)
    assert (ended.state, [attempt.ended for attempt in ended.attempts]) == ("completed", ["completed"])
    await stack.back("dispatcher", dispatcher)
    await stack.back("execute", pid)
