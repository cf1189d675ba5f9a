"""The client of a backend, against the in-memory bus."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ocf.events import reorder, subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.client import Client
from ocf.events.envelope import decode
from ocf.events.errors import InvalidEvent, NotYetKnown, OcfError
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import State
from ocf.events.output import Chunk, ChunkType
from ocf.events.ports import Message
from ocf.events.session_record import Session
from ocf.events.untrusted_json import MIB
from tests.support.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLDER, NEWER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes are given up sooner than after 1.75 s."""
    monkeypatch.setattr(reorder, "FILL_WAIT", 0.02)


class World:
    """A client, and the other side of it."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.bus, self.bucket, self.store = MemoryBus(clock), MemoryBucket(clock), MemoryStore()
        self.sessions = MemoryBucket(clock)
        self.client = Client(self.bus, self.bucket, self.sessions, project="p", store=self.store)
        self.execution = str(uuid.uuid4())

    async def record(self, state: State, **more: Any) -> None:
        """Set the record."""
        value = Record(
            execution_id=self.execution,
            project_id="p",
            state=state,
            submitted_at=NOW,
            updated_at=NOW,
            timeout_seconds=60,
            **more,
        )
        key = ExecutionRef("p", self.execution).record_key
        entry = await self.bucket.get(key)
        data = value.model_dump_json().encode()
        await (self.bucket.create(key, data) if entry is None else self.bucket.update(key, data, entry.revision))

    async def say(self, *sequences: int) -> None:
        """Publish chunks."""
        for seq in sequences:
            data = chunk(seq).model_dump_json().encode()
            await self.bus.publish(subjects.output("p", self.execution), data, {"Nats-Msg-Id": f"{uuid.uuid4()}"})

    async def end(self, last: int) -> None:
        """End the execution."""
        await self.record(State.COMPLETED, last_sequence=last)
        await self.bus.publish(subjects.fact("p", self.execution, "completed"), b"{}", {})

    async def watched(self, start: int = 1) -> list[int]:
        return [chunk.seq async for chunk in self.client.watch(self.execution, start=start)]


def chunk(seq: int) -> Chunk:
    return Chunk(seq=seq, type=ChunkType.TEXT, data=f"{seq} ", timestamp=NOW)


async def test_submit_publishes_one_event() -> None:
    """A binary CloudEvent on the submit subject, with the trace it was given."""
    world = World()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    execution = await world.client.submit(prompt="hello", labels={"a": "b"}, traceparent=trace)
    message = await world.bus.last(subjects.COMMANDS, subjects.command("submit", "p", execution))
    assert message is not None
    event = decode(message.headers, message.data)
    assert event.type == "dev.ocf.task.submit.v1"
    assert event.extensions["traceparent"] == trace
    data = json.loads(event.data)
    assert (data["prompt"], data["project_id"], data["execution_id"]) == ("hello", "p", execution)


async def test_a_wrong_field_is_told_before_anything_is_said() -> None:
    """A typing error raises, and nothing is published."""
    world = World()
    with pytest.raises(ValidationError, match="promt"):
        await world.client.submit(promt="hello")
    assert [m async for m in world.bus.history(subjects.COMMANDS, "ocf.cmd.>")] == []


async def test_large_data_goes_to_the_store() -> None:
    """Over 512 KiB the message carries a reference; over 16 MiB it is refused."""
    world = World()
    execution = await world.client.submit(prompt="x", code="y" * 1_000_000)
    message = await world.bus.last(subjects.COMMANDS, subjects.command("submit", "p", execution))
    assert message is not None
    assert (message.data, "ce-dataref" in message.headers) == (b"", True)
    (stored,) = [info async for info in world.store.list(f"p/{execution}/")]
    assert stored.size > 1_000_000
    with pytest.raises(InvalidEvent, match="16 MiB"):
        await world.client.submit(prompt="x" * 2_000_000, code="y" * 8_000_000, context="z" * 8_000_000)


async def test_unknown_execution_is_an_error() -> None:
    """`status` of an execution nobody submitted."""
    with pytest.raises(NotYetKnown):
        await World().client.status(str(uuid.uuid4()))


async def test_the_list_is_newest_first_and_of_one_project() -> None:
    """Records of other projects, and leases, are not in it."""
    world = World()
    await world.record(State.RUNNING)
    await world.bucket.create(f"p.{world.execution}.lease", b"{}")
    await world.bucket.create(f"other.{world.execution}", b"{}")
    assert [record.execution_id for record in await world.client.list()] == [world.execution]


async def test_watch_joins_history_and_live() -> None:
    """What was said before, what is said meanwhile, then the end: each once, in order."""
    world = World()
    await world.record(State.RUNNING)
    await world.say(1, 2)
    watching = asyncio.create_task(world.watched())
    await asyncio.sleep(0.05)
    await world.say(3, 4)
    await world.end(4)
    assert await asyncio.wait_for(watching, 5) == [1, 2, 3, 4]


async def test_watch_closes_a_gap() -> None:
    """Chunks that come swapped, or that a reconnect swallowed, are put in order."""
    world = World()
    await world.record(State.RUNNING)
    watching = asyncio.create_task(world.watched())
    await asyncio.sleep(0.05)
    await world.say(2, 1, 4, 3, 3)
    await world.end(4)
    assert await asyncio.wait_for(watching, 10) == [1, 2, 3, 4]


async def test_watch_waits_for_what_is_not_submitted_yet() -> None:
    """An execution nobody knows yet: nothing is wrong, it begins later."""
    world = World()
    watching = asyncio.create_task(world.watched())
    await asyncio.sleep(0.05)
    await world.record(State.RUNNING)
    await world.say(1)
    await world.end(1)
    assert await asyncio.wait_for(watching, 10) == [1]


async def test_watch_resumes() -> None:
    """From a sequence on; beyond the end there is nothing, and it ends."""
    world = World()
    await world.record(State.RUNNING)
    await world.say(1, 2, 3)
    await world.end(3)
    assert await asyncio.wait_for(world.watched(3), 5) == [3]
    assert await asyncio.wait_for(world.watched(4), 5) == []


async def test_watch_reads_the_archive_when_the_stream_forgot() -> None:
    """An execution of long ago, its chunks aged out of the stream, all or the first of them."""
    world = World()
    lines = b"".join(chunk(seq).model_dump_json().encode() + b"\n" for seq in range(1, 6))
    await world.store.put(f"p/{world.execution}/output.ndjson.gz", gzip.compress(lines))
    await world.end(5)
    assert await asyncio.wait_for(world.watched(), 5) == [1, 2, 3, 4, 5]
    assert await asyncio.wait_for(world.watched(4), 5) == [4, 5]
    await world.say(4, 5)
    assert await asyncio.wait_for(world.watched(2), 5) == [2, 3, 4, 5]


async def test_watch_reads_a_hole_from_the_archive() -> None:
    """The stream lost one chunk of an execution that has ended: the archive has it, and the watch ends."""
    world = World()
    lines = b"".join(chunk(seq).model_dump_json().encode() + b"\n" for seq in range(1, 6))
    await world.store.put(f"p/{world.execution}/output.ndjson.gz", gzip.compress(lines))
    await world.say(1, 2, 4)
    await world.end(5)
    assert await asyncio.wait_for(world.watched(), 10) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stored", [(1, 2, 4), ()])
async def test_missing_chunks_become_a_gap(stored: tuple[int, ...]) -> None:
    """Neither stream nor archive: a chunk of type `gap` stands for it, and the watch ends."""
    world = World()
    if stored:
        lines = b"".join(chunk(seq).model_dump_json().encode() + b"\n" for seq in stored)
        await world.store.put(f"p/{world.execution}/output.ndjson.gz", gzip.compress(lines))
    await world.say(1, 2, 4)
    await world.end(6)
    async with asyncio.timeout(15):
        seen = [chunk async for chunk in world.client.watch(world.execution)]
    assert [(c.seq, c.type.value) for c in seen] == [(1, "text"), (2, "text"), (3, "gap"), (4, "text"), (5, "gap")]
    assert [(c.detail or {}).get("to") for c in seen if c.type == ChunkType.GAP] == [3, 6]


@pytest.mark.parametrize(
    "packed",
    [b"hello", gzip.compress(b"{}\n" * 99)[:-9], gzip.compress(b"{}\n"), gzip.compress(bytes(64 * MIB))],
    ids=["no gzip", "cut off", "no chunks", "a bomb"],
)
async def test_a_damaged_archive_is_an_error_of_ours(packed: bytes) -> None:
    """One that says what is damaged, whatever gzip raises."""
    world = World()
    await world.store.put(f"p/{world.execution}/output.ndjson.gz", packed)
    await world.end(5)
    with pytest.raises(OcfError, match="is damaged"):
        await world.watched()


@pytest.mark.parametrize("kept", [(), (9, 10)])
@pytest.mark.parametrize("stated", [True, False])
async def test_a_hole_of_the_archive_is_stated_as_large_as_it_is(kept: tuple[int, ...], stated: bool) -> None:
    """What is behind it is given, whether the archive states its hole or not; also to who begins within it."""
    world = World()
    lines = {seq: chunk(seq) for seq in (1, 2, 6, 7, 8, 9, 10)}
    if stated:
        lines[3] = Chunk.read(reorder.gap_line(3, 5, datetime.now(UTC), "lost").data)
    packed = gzip.compress(b"".join(lines[seq].model_dump_json().encode() + b"\n" for seq in sorted(lines)))
    await world.store.put(f"p/{world.execution}/output.ndjson.gz", packed)
    await world.say(*kept)
    await world.end(10)
    for start, wanted in ((1, [1, 2, (3, 5), 6, 7, 8, 9, 10]), (4, [(4, 5), 6, 7, 8, 9, 10])):
        async with asyncio.timeout(5):
            seen = [one async for one in world.client.watch(world.execution, start=start)]
        assert [(c.seq, (c.detail or {})["to"]) if c.type == ChunkType.GAP else c.seq for c in seen] == wanted


async def test_the_first_chunk_is_lost_and_there_is_no_archive_yet() -> None:
    """It is stated at once, and the rest is given: right after the end there is no archive."""
    world = World()
    await world.say(2, 3)
    await world.end(3)
    async with asyncio.timeout(1):
        seen = [one async for one in world.client.watch(world.execution)]
    assert [(c.seq, c.type.value) for c in seen] == [(1, "gap"), (2, "text"), (3, "text")]


async def test_unreadable_chunk_becomes_a_gap() -> None:
    """A message of the stream that cannot be read takes nobody's watch; nor a record that cannot, the list."""
    world = World()
    await world.say(1)
    await world.bus.publish(subjects.output("p", world.execution), b"\xff[", {"ce-sequence": "2"})
    await world.say(3)
    await world.end(3)
    await world.bucket.create(ExecutionRef("p", str(uuid.uuid4())).record_key, b"[]")
    async with asyncio.timeout(10):
        seen = [one async for one in world.client.watch(world.execution)]
    assert [(c.seq, c.type.value) for c in seen] == [(1, "text"), (2, "gap"), (3, "text")]
    assert [record.execution_id for record in await world.client.list()] == [world.execution]


async def test_a_hole_does_not_hold_up_a_run_for_ever() -> None:
    """While it runs four reads of the stream, 1.75 s, are enough: then the gap is stated and live goes on. Reading for
    it goes on from where it was, however much is said meanwhile."""
    world = World()
    await world.record(State.RUNNING)
    await world.say(1, 2)
    read, history = [0], world.bus.history

    async def counted(*args: Any, **more: Any) -> AsyncIterator[Message]:
        async for message in history(*args, **more):
            read[0] += 1
            yield message

    world.bus.history = counted  # type: ignore[method-assign]
    seen: list[Chunk] = []

    async def follow() -> None:
        async for one in world.client.watch(world.execution):
            seen.append(one)

    watching = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        while len(seen) < 2:
            await asyncio.sleep(0.01)
        for seq in range(4, 304):
            await world.say(seq)
            await asyncio.sleep(0)
        while len(seen) < 303:
            await asyncio.sleep(0.01)
        await world.end(303)
        await watching
    assert [c.seq for c in seen] == list(range(1, 304))
    assert (seen[2].type, seen[2].detail) == (ChunkType.GAP, {"reason": "lost", "from": 3, "to": 3})
    assert read[0] < 1_000


async def test_resume_reads_only_the_chunks_after_the_number() -> None:
    """The place in the stream is found by halves; others' chunks lie between, and a reconnect left many swapped."""
    world = World()
    await world.record(State.RUNNING)
    order = [*range(1, 4_000), *range(4_512, 5_001), *range(4_000, 4_512), 5_001]
    for seq in order:
        await world.say(seq)
        await world.bus.publish(subjects.output("p", OLDER), chunk(seq).model_dump_json().encode(), {})
    await world.end(5_001)
    for start in (2_100, 3_990, 4_100, 4_600, 5_001, 9_000):
        after = await reorder.seek(world.bus, "p", world.execution, start)
        rest = world.bus.history(subjects.OUTPUT, subjects.output("p", world.execution), after=after)
        kept = [line.seq async for message in rest if (line := reorder.line_in(message))]
        assert set(range(start, 5_002)) <= set(kept)
        assert len(kept) < max(0, 5_001 - start) + reorder.MAX_DISPLACEMENT + 1_024
    assert await reorder.seek(world.bus, "p", str(uuid.uuid4()), 5_000) == 0
    assert await world.watched(4_990) == list(range(4_990, 5_002))


async def test_watch_ends_with_a_deleted_execution() -> None:
    """Its `cleaned` fact ends who watches, and who comes later."""
    world = World()
    await world.record(State.RUNNING)
    await world.say(1)
    watching = asyncio.create_task(world.watched())
    await asyncio.sleep(0.05)
    await world.bucket.delete(ExecutionRef("p", world.execution).record_key)
    await world.bus.publish(subjects.fact("p", world.execution, "cleaned"), b"{}", {})
    assert await asyncio.wait_for(watching, 5) == [1]
    assert await asyncio.wait_for(world.watched(5), 5) == []


@pytest.mark.parametrize("evicted", [False, True])
async def test_without_a_store_the_archive_is_named(evicted: bool) -> None:
    """The client says what it would need, also when the record has left NATS: only the id is remembered there."""
    world = World()
    await world.end(5)
    client = Client(world.bus, world.bucket, world.sessions, project="p")
    if evicted:
        ref = ExecutionRef("p", world.execution)
        await world.bucket.create(ref.ended_key, b'{"digest":"","request_digest":"","state":"completed"}')
        await world.bucket.delete(ref.record_key)
        with pytest.raises(NotYetKnown, match="give the client a store"):
            await client.status(world.execution)
    async with asyncio.timeout(5):
        with pytest.raises(NotYetKnown, match="give the client a store"):
            [_ async for _ in client.watch(world.execution)]


async def test_session_commands_are_events_on_the_subject_of_their_session() -> None:
    """create, attach, detach and destroy each publish the contract's event, and nothing else."""
    world = World()
    calls = world.client.sessions
    session = await calls.create(workspace={"source": "git", "url": "https://example.com/a.git"}, labels={"a": "b"})
    await calls.attach(session, "console")
    await calls.detach(session, "console")
    await calls.destroy(session)
    sent = [message async for message in world.bus.history(subjects.COMMANDS, f"ocf.cmd.session.p.{session}")]
    events = [decode(message.headers, message.data) for message in sent]
    assert [event.type for event in events] == [
        f"dev.ocf.session.{verb}.v1" for verb in ("create", "attach", "detach", "destroy")
    ]
    assert json.loads(events[0].data)["workspace"]["url"] == "https://example.com/a.git"
    with pytest.raises(ValidationError, match="ttl_seconds"):
        await calls.create(ttl_seconds=0)


async def test_sessions_are_read_from_their_bucket() -> None:
    """`get` names a session that is not known; `list` gives the newest first."""
    world = World()
    with pytest.raises(NotYetKnown, match=world.execution):
        await world.client.sessions.get(world.execution)
    for hour, session in enumerate((OLDER, NEWER)):
        at = NOW.replace(hour=hour)
        record = Session(
            session_id=session, project_id="p", created_at=at, updated_at=at, expires_at=at, ttl_seconds=60
        )
        await world.sessions.create(SessionRef("p", session).record_key, record.model_dump_json().encode())
    assert [session.session_id for session in await world.client.sessions.list()] == [NEWER, OLDER]
    assert (await world.client.sessions.get(OLDER)).created_at == NOW
