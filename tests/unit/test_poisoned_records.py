"""Records that cannot be read, changed or said stop no loop: those beside them are swept, expired and archived."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_publisher import NATS_DELIVERIES
from ocf.events.errors import DeadLetter, Drop, Unavailable
from ocf.events.execution_record import OutboxEntry, Record
from ocf.events.lifecycle import State
from ocf.events.ports import Message
from ocf.functions.archive.handler import MAX_TRIES, MAX_WAIT
from ocf.functions.core.compare_and_set import dump
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.observability import metrics
from tests.support.clock import ManualClock
from tests.support.handlers import archive, cleanup
from tests.support.measures import value
from tests.support.parts import PROJECT, Bench, bench, instead
from tests.unit.test_cancel_cleanup_archive import clean, completed, running, swept, terminal


def foreign(record: Record) -> bytes:
    return dump(record.model_copy(update={"execution_id": str(uuid.uuid4())}))


def with_outbox(**boxed: Any) -> Callable[[Record], bytes]:
    def made(record: Record) -> bytes:
        fact = OutboxEntry(
            **{"type": "dev.ocf.task.completed.v1", "id": "x", "time": record.updated_at, "data": "{}", **boxed}
        )
        return dump(record.model_copy(update={"outbox": [fact]}))

    return made


POISON: dict[str, Callable[[Record], bytes]] = {
    "not JSON": lambda _: b"\xff{",
    "nested": lambda _: b"[" * 100_000,
    "no such state": lambda record: dump(record).replace(b'"running"', b'"walking"'),
    "another execution's": foreign,
    "no such fact": with_outbox(type="dev.ocf.task.exploded.v9"),
    "a fact of no use": with_outbox(data="[1,2"),
    "a fact too large": with_outbox(data="[" + "1," * 300_000 + "1]"),
    "times that cannot be": lambda record: dump(record).replace(
        b'"timeout_seconds":', b'"timeout_seconds":9' + b"0" * 12
    ),
}


async def poisoned(b: Bench, poison: Callable[[Record], bytes]) -> str:
    execution = await running(b)
    key = f"{PROJECT}.{execution}"
    entry = await b.deps.executions.get(key)
    assert entry is not None
    await b.deps.executions.update(key, poison(Record.read(entry.value)), entry.revision)
    return execution


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_the_sweep_ends_what_is_beside_a_poisoned_record(poison: Callable[[Record], bytes]) -> None:
    """Whatever stands in one record, runs without a worker before and behind it end, and the tick succeeds."""
    clock = ManualClock()
    b = bench(clock)
    healthy = [await running(b)]
    await poisoned(b, poison)
    healthy.append(await running(b))
    await clock.advance(timedelta(seconds=30).total_seconds())
    await swept(b, clock)
    for execution in healthy:
        assert (await b.deps.records.require(PROJECT, execution)).state is State.FAILED


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_a_poisoned_record_can_be_deleted(poison: Callable[[Record], bytes]) -> None:
    """Nothing in it keeps its execution from being removed; what can be read is ended as any other."""
    clock = ManualClock()
    b = bench(clock)
    execution = await poisoned(b, poison)
    for _ in range(2):  # one that can be read is ended first
        await clock.advance(60)
        await swept(b, clock)
    await clock.advance(60)
    await cleanup(b.deps, clean(b, execution))
    assert await b.deps.executions.get(f"{PROJECT}.{execution}") is None
    assert await b.said(execution) == ["cleaned"]


async def test_a_record_that_fails_again_and_again_is_tried_less_and_less() -> None:
    """Each failure is logged and counted; the pauses between two tries double."""
    clock = ManualClock()
    b = bench(clock)
    execution = await running(b)
    tries = 0

    class Broken(MemoryBucket):
        async def get(self, key: str) -> None:
            nonlocal tries
            tries += 1
            raise KeyError("of the one record")

    deps = replace(b.deps, executions=Broken(clock))
    before = value(metrics.item_failures.labels("sweep"))
    for _ in range(240):  # an hour
        await cleanup(deps, clean(b, "00000000-0000-0000-0000-000000000000", "sweep"))
        await clock.advance(15)
    assert 5 <= tries <= 9
    assert value(metrics.item_failures.labels("sweep")) - before == tries
    assert (await b.deps.records.require(PROJECT, execution)).state is State.RUNNING


async def test_a_dependency_that_is_away_is_no_records_fault() -> None:
    """The tick fails as a whole, and nothing waits longer for it when it is back."""

    async def away(*_: object) -> None:
        raise Unavailable("NATS is away")

    class Away(MemoryBucket):
        get = away

    class Bus(MemoryBus):
        ready = away

    clock = ManualClock()
    b = bench(clock, bus=Bus)
    execution = await running(b)
    await clock.advance(30)
    with pytest.raises(Unavailable):
        await cleanup(
            replace(b.deps, executions=Away(clock)), clean(b, "00000000-0000-0000-0000-000000000000", "sweep")
        )
    await swept(b, clock)
    assert (await b.deps.records.require(PROJECT, execution)).state is State.FAILED


async def test_retention_goes_on_beside_an_execution_that_cannot_expire() -> None:
    """Its objects cannot be removed; those of the next are."""
    clock = ManualClock()
    b = bench(clock, RETENTION="default=1d/2d")
    executions = [await completed(b) for _ in range(3)]
    for execution in executions:
        await archive(b.deps, await terminal(b, execution))
        await b.deps.history.save(await b.deps.records.require(PROJECT, execution))
    await clock.advance(timedelta(days=3).total_seconds())
    delete_prefix = b.store.delete_prefix

    async def refused(prefix: str) -> int:
        if executions[0] in prefix:
            raise Unavailable("1 objects were not removed: locked")
        return await delete_prefix(prefix)

    locked = b.having(store=instead(b.store, delete_prefix=refused))
    await cleanup(locked.deps, clean(b, "00000000-0000-0000-0000-000000000001", "retention"))
    expired = [(await b.deps.records.require(PROJECT, execution)).archive_expired for execution in executions]
    assert expired == [False, True, True]


async def test_output_with_a_hole_is_archived_with_the_hole_stated() -> None:
    """Long after the end nothing more comes: the archive says which chunks are missing, and is not tried for ever."""
    clock = ManualClock()
    b = bench(clock)
    execution = await completed(b, chunks=9)
    kept = b.bus._streams[subjects.OUTPUT].messages
    of_it = [message for message in kept if message.subject == subjects.output(PROJECT, execution)]
    for number in (2, 3, 8):
        kept.remove(of_it[number])
    spoilt = kept.index(of_it[5])
    kept[spoilt] = replace(of_it[5], data=b"\xff[")  # what is no chunk is missing, like one that never came
    event = await terminal(b, execution)
    with pytest.raises(Unavailable, match="chunk 3"):
        await archive(b.deps, event)
    await clock.advance(MAX_WAIT.total_seconds() + 1)
    await archive(b.deps, event)
    lines = gzip.decompress(await b.store.get(f"{PROJECT}/{execution}/output.ndjson.gz")).splitlines()
    said = [json.loads(line) for line in lines]
    assert [chunk["seq"] for chunk in said] == [1, 2, 3, 5, 6, 7, 8, 9]
    gaps = [chunk["detail"] for chunk in said if chunk["type"] == "gap"]
    assert gaps == [{"reason": "lost", "from": 3, "to": 4}, *({"reason": "lost", "from": n, "to": n} for n in (6, 9))]
    manifest = json.loads(await b.store.get(f"{PROJECT}/{execution}/manifest.json"))
    assert manifest["chunks"]["missing"] == 4
    assert (await b.deps.records.require(PROJECT, execution)).archived


async def test_an_object_that_is_gone_is_stated_in_the_manifest() -> None:
    """Somebody removed the patch: the rest is archived, and the manifest names what is missing."""
    clock = ManualClock()
    b = bench(clock)
    execution = await completed(b)
    message = await b.bus.last(subjects.EVENTS, subjects.fact(PROJECT, execution, "completed"))
    assert isinstance(message, Message)
    gone = {"name": "workspace.patch", "size": 1, "sha256": "00"}
    event = await terminal(b, execution)
    event = type(event)(**{**vars(event), "data": json.dumps({**json.loads(event.data), "objects": [gone]}).encode()})
    with pytest.raises(Unavailable, match=r"workspace\.patch"):
        await archive(b.deps, event)
    await clock.advance(MAX_WAIT.total_seconds() + 1)
    await archive(b.deps, event)
    manifest = json.loads(await b.store.get(f"{PROJECT}/{execution}/manifest.json"))
    assert manifest["missing"] == ["workspace.patch"]
    with pytest.raises(Drop):
        await archive(b.deps, event)


async def test_an_end_whose_archive_always_fails_becomes_a_dead_letter() -> None:
    """A mistake of ours, or a record that nobody foresaw, occupies no place in the consumer for ever."""
    b = bench()
    execution = await completed(b)
    event = await terminal(b, execution)

    class Broken(MemoryStore):
        async def put(self, *_: Any, **__: Any) -> None:
            raise KeyError("a secret of the prompt")

    deps = replace(b.deps, store=Broken())
    with pytest.raises(KeyError):
        await archive(deps, event)
    with pytest.raises(DeadLetter, match="KeyError"):
        await archive(deps, event.with_extensions(**{NATS_DELIVERIES: str(MAX_TRIES)}))


async def test_the_fence_finds_the_last_chunk_behind_what_is_none() -> None:
    """A worker that takes over, and the sweep, number on from the newest chunk that can be read."""
    b = bench(ManualClock())
    execution = await completed(b, chunks=3)
    await b.bus.publish(subjects.output(PROJECT, execution), b"\xff[", {"ce-sequence": "4"})
    assert (await acquire_fence(b.bus, PROJECT, execution)).last == 3
