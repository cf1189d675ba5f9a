"""Messages that no consumer can read, many of them, beside real submits, on a real NATS server."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

import pytest

from ocf.events import dead_letters, subjects
from ocf.functions.dispatcher.routes import ROUTES
from tests.support.poison import STRUCTURED, WORDS, poisons
from tests.support.stack import Project, Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
#: Of each kind. More in all than a consumer may have unsettled.
EACH = 45
#: Seconds within which every one is settled.
SETTLED = 120.0


async def test_a_thousand_poison_messages_stand_in_nobodys_way(stack: Stack, project: Project) -> None:
    """Each has a dead letter without its content, is `rejected`, and is in nobody's way: real submits complete among
    them, nothing stays unsettled, and no log of any process holds a word of them."""
    kinds = poisons("dev.ocf.task.submit.v1", {"execution_id": str(uuid.uuid4()), "project_id": project.name})
    poisoned: dict[str, str] = {}
    real: list[str] = []
    began = time.monotonic()
    for turn in range(EACH):
        batch = []
        for kind in kinds:
            execution = str(uuid.uuid4())
            poisoned[execution] = kind.name
            subject = subjects.command("submit", project.name, execution)
            batch.append(project.bus.publish(subject, kind.data, kind.headers))
        await asyncio.gather(*batch)
        if turn % 15 == 7:
            real.append(await project.submit("hello"))
    assert len(poisoned) > 1_000
    for execution in real:
        assert (await project.ended(execution, timeout=SETTLED)).state == "completed"

    async def letters() -> dict[str, dead_letters.StoredDeadLetter]:
        found = {}
        async for message in project.bus.history(subjects.DLQ, f"ocf.dlq.*.{project.name}.*"):
            assert message.data == b""
            assert WORDS not in json.dumps(dict(message.headers))
            found[message.subject.rsplit(".", 1)[-1]] = dead_letters.read(message)
        return found

    async def all_settled() -> bool:
        return set(await letters()) == set(poisoned)

    await until(all_settled, timeout=SETTLED, what="a dead letter of each")
    assert time.monotonic() - began < SETTLED
    assert {letter.deliveries for letter in (await letters()).values()} == {1}
    rejected = {
        message.subject.split(".")[3]
        async for message in project.bus.history(subjects.EVENTS, f"ocf.evt.{project.name}.*.rejected")
    }
    assert rejected == set(poisoned)
    one_of_each = {kind: execution for execution, kind in poisoned.items()}
    for execution in one_of_each.values():
        record = await project.ended(execution)
        assert (record.state, record.attempts) == ("rejected", [])
        assert record.errors
        assert [chunk async for chunk in project.client.watch(execution)] == []
    logs = list(stack.data_dir.rglob("*.log"))
    assert logs
    for path in logs:
        assert WORDS not in path.read_text(errors="replace"), path


async def test_poison_on_any_command_stops_no_other(project: Project) -> None:
    """Cancel, cleanup and session commands that cannot be read are dead letters; the next good ones are obeyed."""
    execution = await project.submit([{"sleep": 60}])
    await project.when(execution, lambda record: record.state == "running")
    for row in ROUTES:
        verb = row.consumer
        if not row.subjects[0].startswith("ocf.cmd.") or verb in ("execute", "submit"):
            continue
        entity = str(uuid.uuid4())
        for kind in poisons(row.types[0], {"execution_id": entity, "project_id": project.name}):
            await project.bus.publish(subjects.command(verb, project.name, entity), kind.data, kind.headers)
    await project.bus.publish(subjects.command("cancel", project.name, execution), b"{", STRUCTURED)
    await project.client.cancel(execution)
    assert (await project.ended(execution)).state == "cancelled"
    session = await project.client.sessions.create()
    follow_up = await project.submit("hello", session_id=session)
    assert (await project.ended(follow_up)).state == "completed"
    await project.client.delete(execution)

    async def gone() -> bool:
        left = [m async for m in project.bus.history(subjects.DLQ, f"ocf.dlq.*.{project.name}.{execution}")]
        return left == [] and await project.record(execution) is None

    await until(gone, timeout=60, what="the deletion of the execution with its dead letters")


async def test_the_same_id_in_two_projects_is_two_runs(stack: Stack, project: Project) -> None:
    """Both run to their end with their own output, and deleting one leaves the other whole. The second runs while the
    stream still remembers the message ids of the first."""
    execution = str(uuid.uuid4())
    async with stack.project() as other:
        for own, words in ((project, "one"), (other, "two")):
            await own.submit([{"text": f"the words of {words}"}], execution_id=execution)
            record = await own.archived(execution)
            assert (record.state, record.result) == ("completed", f"the words of {words}")
            chunks = await own.chunks(execution)
            assert [chunk.seq for chunk in chunks] == list(range(1, record.last_sequence + 1))
            assert await own.archive(execution) == chunks
        await project.client.delete(execution)

        async def gone() -> bool:
            return await project.record(execution) is None

        await until(gone, timeout=60, what="the deletion of one of them")
        assert len(await other.archive(execution)) == (await other.ended(execution)).last_sequence
        assert await other.objects(execution) >= {"manifest.json", "output.ndjson.gz"}
