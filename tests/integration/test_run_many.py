"""Two hundred executions, ten at a time."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from tests.support.stack import Project, Stack, gapless, until

pytestmark = pytest.mark.slow

COUNT = 200
#: Two busy cores: what costs is starting two hundred agents.
PATIENCE = 240.0


@pytest.mark.timeout(400)
async def test_two_hundred_executions_and_nothing_left_of_them(stack: Stack, project: Project) -> None:
    """Each ends with exactly one terminal event and one archive, its sequences gapless. After all are deleted there is
    no process, key, object, message (but `cleaned`), lease or temporary file of theirs."""
    before = set(os.listdir(stack.temporary))
    ids = await asyncio.gather(*(project.submit("hello", labels={"n": str(n)}) for n in range(COUNT)))

    await until(lambda: _said(project, "archived"), timeout=PATIENCE, what="200 archives")
    records = await project.client.list()
    assert Counter(record.state.value for record in records) == {"completed": COUNT}
    facts = [m.subject.split(".")[3:] async for m in project.bus.history(subjects.EVENTS, f"ocf.evt.{project.name}.>")]
    ended = Counter(execution for execution, what in facts if what in ("completed", "failed", "timed_out", "cancelled"))
    assert ended == dict.fromkeys(ids, 1)
    assert Counter(execution for execution, what in facts if what == "archived") == dict.fromkeys(ids, 1)
    for record in records:
        chunks = await project.archive(record.execution_id)
        assert gapless(chunks)
        assert len(chunks) == record.last_sequence

    await asyncio.gather(*(project.client.delete(execution) for execution in ids))

    await until(lambda: _said(project, "cleaned"), timeout=PATIENCE, what="200 cleaned")
    await until(lambda: _nothing_in_the_streams(project), what="commands purged")
    assert [info.key async for info in project.store.list(f"{project.name}/")] == []
    # A renewal that crossed the deletion can bring a lease back once; its TTL of ten seconds ends it.
    await until(lambda: _no_keys(project), timeout=15, what="no key")
    state = stack.data_dir / "state"
    assert [name for name in os.listdir(state) if name in ids] == []
    await until(lambda: _idle(stack), what="no process of an agent")
    assert set(os.listdir(stack.temporary)) - before == set()


async def _said(project: Project, what: str) -> bool:
    """Whether all have said it."""
    pattern = f"ocf.evt.{project.name}.*.{what}"
    return sum([1 async for _ in project.bus.history(subjects.EVENTS, pattern)]) == COUNT


async def _nothing_in_the_streams(project: Project) -> bool:
    left = [m.subject async for m in project.bus.history(subjects.COMMANDS, f"ocf.cmd.*.{project.name}.*")]
    left += [m.subject async for m in project.bus.history(subjects.OUTPUT, f"ocf.out.{project.name}.>")]
    left += [
        m.subject
        async for m in project.bus.history(subjects.EVENTS, f"ocf.evt.{project.name}.>")
        if not m.subject.endswith(".cleaned")
    ]
    return not left


async def _no_keys(project: Project) -> bool:
    executions = NatsBucket(project.bus, subjects.EXECUTIONS_BUCKET)
    return not [entry.key async for entry in executions.entries(f"{project.name}.>")]


async def _idle(stack: Stack) -> bool:
    """Whether the stack has no process below its functions."""
    return not stack.children()
