"""One suite for both buses: JetStream and in memory, same assertions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus, subject_matches
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import connect
from ocf.events.errors import Conflict, TooLarge, Unavailable
from ocf.events.ports import Backlog, Bucket, Bus, ConsumerSpec, ConsumerState, Fence, Message
from ocf.events.untrusted_json import MESSAGE_BYTES, RECORD_BYTES
from ocf.functions.core.system_clock import SystemClock
from tests.support.nats import NatsServer

ADAPTERS = ["memory", "jetstream"]


@pytest.fixture(params=ADAPTERS)
async def bus(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus(SystemClock())
        return
    real = await connect(nats_server.url, creds=nats_server.creds, name="contract")
    yield real
    await real.close()


@pytest.fixture(params=ADAPTERS)
async def bucket(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[Bucket]:
    if request.param == "memory":
        yield MemoryBucket(SystemClock())
        return
    real = await connect(nats_server.url, creds=nats_server.creds, name="contract")
    yield NatsBucket(real, subjects.EXECUTIONS_BUCKET)
    await real.close()


def ids() -> tuple[str, str]:
    return f"p-{uuid.uuid4().hex[:12]}", str(uuid.uuid4())


async def listed(messages: AsyncIterator[Message]) -> list[bytes]:
    return [message.data async for message in messages]


async def test_history_gives_what_was_published_in_order(bus: Bus) -> None:
    """Everything kept for a subject comes back in order, and nothing of another."""
    project, execution = ids()
    subject = subjects.output(project, execution)
    for number in range(300):
        await bus.publish(subject, str(number).encode(), {"ce-sequence": str(number + 1)})
    await bus.publish(subjects.output(project, str(uuid.uuid4())), b"other", {})
    found = [message async for message in bus.history(subjects.OUTPUT, subject)]
    assert [message.data for message in found] == [str(number).encode() for number in range(300)]
    assert found[5].headers["ce-sequence"] == "6"
    assert await listed(bus.history(subjects.OUTPUT, subject, after=found[297].sequence)) == [b"298", b"299"]
    for after, data in ((0, b"0"), (found[297].sequence, b"298"), (found[299].sequence, None)):
        first = await bus.first(subjects.OUTPUT, subject, after=after)
        assert (first and first.data) == data
        assert first is None or first.sequence > after
    last = await bus.last(subjects.OUTPUT, subject)
    assert last is not None
    assert last.data == b"299"


async def test_large_messages_are_read_in_bounded_batches(bus: Bus) -> None:
    """More than a batch holds in bytes and less than it holds in messages: none is left out."""
    project, execution = ids()
    subject = subjects.output(project, execution)
    for number in range(25):
        await bus.publish(subject, str(number).encode().ljust(512 * 1024), {})
    found = [int(data) async for data in _data(bus, subject)]
    assert found == list(range(25))


async def _data(bus: Bus, subject: str) -> AsyncIterator[bytes]:
    async for message in bus.history(subjects.OUTPUT, subject):
        yield message.data


@pytest.mark.parametrize("headers", [{}, {"ce-why": "x" * 200_000}], ids=["data", "headers"])
async def test_a_message_that_is_too_large_is_refused_and_hurts_nobody(bus: Bus, headers: dict[str, str]) -> None:
    """The server would close the connection, which others of the process use: it is refused before that."""
    project, execution = ids()
    subject = subjects.output(project, execution)
    async with bus.listen(subjects.live(project, execution)) as heard:
        with pytest.raises(TooLarge, match="at most"):
            await bus.publish(subject, b"x" * (MESSAGE_BYTES - 100_000 if headers else MESSAGE_BYTES + 1), headers)
        await bus.publish(subject, b"small", {})
        assert (await asyncio.wait_for(anext(heard), 5)).data == b"small"


async def test_a_value_that_is_too_large_is_refused(bucket: Bucket) -> None:
    """One as large as a record may be is kept."""
    key = ".".join(ids())
    revision = await bucket.create(key, b"x" * RECORD_BYTES)
    with pytest.raises(TooLarge):
        await bucket.update(key, b"x" * (MESSAGE_BYTES + 1), revision)
    found = await bucket.get(key)
    assert found is not None
    assert len(found.value) == RECORD_BYTES


async def test_the_same_message_id_is_kept_once(bus: Bus) -> None:
    """Publishing again after a lost acknowledgement does no harm."""
    project, execution = ids()
    subject = subjects.output(project, execution)
    first = await bus.publish(subject, b"a", {"Nats-Msg-Id": f"{execution}:1"})
    assert await bus.publish(subject, b"a", {"Nats-Msg-Id": f"{execution}:1"}) == first
    assert await listed(bus.history(subjects.OUTPUT, subject)) == [b"a"]


async def test_only_first_refuses_a_second_message(bus: Bus) -> None:
    """A subject for one fact takes one fact, however often it is said."""
    project, execution = ids()
    subject = subjects.fact(project, execution, "completed")
    await bus.publish(subject, b"a", {}, only_first=True)
    with pytest.raises(Conflict):
        await bus.publish(subject, b"b", {}, only_first=True)
    assert await listed(bus.history(subjects.EVENTS, subject)) == [b"a"]


async def test_live_hears_what_is_published_on_output(bus: Bus) -> None:
    """The stream republishes output on the live subject, for whoever listened before it was said."""
    project, execution = ids()
    async with bus.listen(subjects.live(project, execution)) as live:
        await bus.publish(subjects.output(project, execution), b"chunk", {"ce-sequence": "1"})
        message = await asyncio.wait_for(anext(live), 5)
    assert (message.data, message.headers["ce-sequence"]) == (b"chunk", "1")


async def test_waiting_for_a_live_message_can_be_given_up_and_repeated(bus: Bus) -> None:
    """A timeout while waiting does not end the subscription."""
    project, execution = ids()
    async with bus.listen(subjects.live(project, execution)) as live:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(live), 0.01)
        await bus.publish(subjects.output(project, execution), b"later", {})
        assert (await asyncio.wait_for(anext(live), 5)).data == b"later"


async def test_a_new_consumer_may_begin_with_what_is_said_from_now_on(bus: Bus) -> None:
    """`from_now`: what was kept before the consumer was made is not for it; all after is."""
    project, execution = ids()
    await bus.publish(subjects.fact(project, execution, "accepted"), b"before", {})
    facts = (f"ocf.evt.{project}.*.started", f"ocf.evt.{project}.*.accepted")
    spec = ConsumerSpec(f"from-now-{project}", subjects.EVENTS, facts, from_now=True)
    assert await bus.fetch(spec, 10, 0.01) == []
    await bus.publish(subjects.fact(project, execution, "started"), b"after", {})
    (delivery,) = await bus.fetch(spec, 10, 5)
    assert delivery.message.data == b"after"
    await delivery.ack()


async def test_a_writer_keeps_order(bus: Bus) -> None:
    """What a writer sends without waiting is kept in that order, all of it, after a flush."""
    project, execution = ids()
    subject = subjects.output(project, execution)
    writer = bus.writer(subject)
    for number in range(1500):
        await writer.send(str(number).encode(), {"Nats-Msg-Id": f"{execution}:{number}"})
    await writer.flush(10)
    writer.close()
    assert await listed(bus.history(subjects.OUTPUT, subject)) == [str(number).encode() for number in range(1500)]


async def test_a_writer_behind_a_fence_is_refused_once_another_is_set(bus: Bus) -> None:
    """Nothing is kept that was sent after the next fence, whoever sent it, until the writer is behind that one."""
    project, execution = ids()
    subject, mark = subjects.output(project, execution), subjects.fence(project, execution)
    refused = asyncio.Event()
    writer = bus.writer(subject, may_repeat=lambda: not refused.is_set(), on_fenced=refused.set)
    writer.fence(Fence(mark, await bus.publish(mark, b"", {})))
    for number in range(3):
        await writer.send(str(number).encode(), {"Nats-Msg-Id": f"{execution}:{number}"})
    await writer.flush(10)
    later = Fence(mark, await bus.publish(mark, b"", {}))
    await writer.send(b"3", {"Nats-Msg-Id": f"{execution}:3"})
    async with asyncio.timeout(10):
        await refused.wait()
    with pytest.raises(Unavailable):
        await writer.flush(0.1)
    assert await listed(bus.history(subjects.OUTPUT, subject)) == [b"0", b"1", b"2"]
    writer.fence(later)
    refused.clear()
    await writer.send(b"4", {"Nats-Msg-Id": f"{execution}:4"})
    await writer.flush(10)
    writer.close()
    assert await listed(bus.history(subjects.OUTPUT, subject)) == [b"0", b"1", b"2", b"3", b"4"]


def consumer(project: str) -> ConsumerSpec:
    name = f"c-{uuid.uuid4().hex[:8]}"
    return ConsumerSpec(name, subjects.COMMANDS, (f"ocf.cmd.cancel.{project}.>",), ack_wait=30)


async def test_a_pulled_message_comes_once_when_acked_and_again_when_naked(bus: Bus) -> None:
    """Ack ends a delivery; nak brings it back after its delay, and it is counted."""
    project, execution = ids()
    spec = consumer(project)
    await bus.publish(subjects.command("cancel", project, execution), b"x", {})
    (first,) = await bus.fetch(spec, 5, 2)
    assert (first.message.data, first.message.deliveries) == (b"x", 1)
    await first.nak(0)
    (second,) = await bus.fetch(spec, 5, 2)
    assert second.message.deliveries == 2
    await second.in_progress()
    await second.ack()
    assert await bus.fetch(spec, 5, 0.2) == []


async def test_a_backlog_tells_what_nobody_was_given_from_what_is_not_settled(bus: Bus) -> None:
    """What is queued behind a slow function can be seen, and what a broken one was given and did not handle."""
    project, _ = ids()
    spec = consumer(project)
    for _ in range(3):
        await bus.publish(subjects.command("cancel", project, str(uuid.uuid4())), b"x", {})
    first, second = await bus.fetch(spec, 2, 2)
    assert await bus.backlog(spec) == Backlog(waiting=1, unsettled=2)
    await second.nak(60)
    assert await bus.backlog(spec) == Backlog(waiting=1, unsettled=2)
    await first.ack()
    # An ack is not answered: the server may be asked before it has taken it.
    async with asyncio.timeout(5):
        while await bus.backlog(spec) != Backlog(waiting=1, unsettled=1):
            await asyncio.sleep(0.01)


async def test_a_consumer_begins_where_it_was_told_and_keeps_to_it(bus: Bus) -> None:
    """Messages before `start` are not for it. Opened again with another start it stays as it is, and says so.

    Its state has the sequence up to which all messages are acknowledged.
    """
    project, _ = ids()
    sent = [await bus.publish(subjects.command("cancel", project, str(uuid.uuid4())), b"x", {}) for _ in range(3)]
    spec = replace(consumer(project), start=sent[1])
    assert await bus.open_consumer(spec) == sent[1]
    assert await bus.open_consumer(replace(spec, start=sent[2])) == sent[1]
    (first,) = await bus.fetch(spec, 1, 2)
    assert (first.message.sequence, first.message.behind) == (sent[1], 1)

    async def state() -> ConsumerState:
        (found,) = [each for each in await bus.consumers(subjects.COMMANDS) if each.name == spec.name]
        return found

    assert (await state()) == ConsumerState(spec.name, sent[1], Backlog(waiting=1, unsettled=1), sent[1] - 1)
    await first.ack()
    async with asyncio.timeout(5):
        while not sent[1] <= (await state()).acknowledged < sent[2]:
            await asyncio.sleep(0.01)
    await bus.remove_consumer(spec)
    await bus.remove_consumer(spec)
    assert spec.name not in {each.name for each in await bus.consumers(subjects.COMMANDS)}


async def test_a_consumer_of_headers_gets_no_data(bus: Bus) -> None:
    """It is enough to know which message there is; `first` reads it."""
    project, execution = ids()
    subject = subjects.command("cancel", project, execution)
    sequence = await bus.publish(subject, b"much", {"ce-id": "1"})
    (delivery,) = await bus.fetch(replace(consumer(project), headers_only=True, max_in_flight=0), 5, 2)
    assert (delivery.message.data, delivery.message.headers["ce-id"]) == (b"", "1")
    await delivery.ack()
    found = await bus.first(subjects.COMMANDS, subject, after=sequence - 1)
    assert found is not None
    assert (found.sequence, found.data) == (sequence, b"much")


async def test_purge_removes_what_matches(bus: Bus) -> None:
    """Purging one execution's events leaves the others alone, and says how many went."""
    project, execution = ids()
    other = str(uuid.uuid4())
    for entity, what in ((execution, "accepted"), (execution, "started"), (other, "accepted")):
        await bus.publish(subjects.fact(project, entity, what), b"", {})
    assert await bus.purge(subjects.EVENTS, f"ocf.evt.{project}.{execution}.>") == 2
    assert await bus.last(subjects.EVENTS, subjects.fact(project, execution, "accepted")) is None
    assert await bus.last(subjects.EVENTS, subjects.fact(project, other, "accepted")) is not None


async def test_compare_and_set(bucket: Bucket) -> None:
    """A value changes only for whoever knows its newest revision."""
    project, execution = ids()
    key = f"{project}.{execution}"
    revision = await bucket.create(key, b"1")
    with pytest.raises(Conflict):
        await bucket.create(key, b"again")
    newer = await bucket.update(key, b"2", revision)
    with pytest.raises(Conflict):
        await bucket.update(key, b"stale", revision)
    entry = await bucket.get(key)
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", newer)


async def test_a_deleted_key_is_gone_and_may_be_created_anew(bucket: Bucket) -> None:
    """Deleting leaves nothing behind, and does not stand in the way of the next."""
    project, execution = ids()
    key = f"{project}.{execution}"
    await bucket.create(key, b"1")
    await bucket.delete(key)
    assert await bucket.get(key) is None
    assert [entry async for entry in bucket.entries(f"{project}.*")] == []
    assert await bucket.create(key, b"2")


async def test_delete_with_a_stale_revision_is_refused(bucket: Bucket) -> None:
    """A lease that somebody else has taken over cannot be released by its former holder."""
    project, execution = ids()
    key = f"{project}.{execution}.lease"
    stale = await bucket.create(key, b"mine")
    await bucket.update(key, b"theirs", stale)
    with pytest.raises(Conflict):
        await bucket.delete(key, revision=stale)


async def test_a_key_with_a_ttl_vanishes_and_can_be_created_again(bucket: Bucket) -> None:
    """A lease that nobody renews is free for the next worker."""
    project, execution = ids()
    key = f"{project}.{execution}.lease"
    await bucket.create(key, b"mine", ttl=1)

    async def gone() -> None:
        while await bucket.get(key) is not None:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(gone(), 5)
    assert await bucket.create(key, b"theirs", ttl=1)


async def test_entries_filter_by_project(bucket: Bucket) -> None:
    """Listing one project shows its records, without leases and without other projects."""
    project, execution = ids()
    await bucket.create(f"{project}.{execution}", b"record")
    await bucket.create(f"{project}.{execution}.lease", b"lease")
    assert [entry.value async for entry in bucket.entries(f"{project}.*")] == [b"record"]
    assert await bucket.newest(f"{project}.*.*.*") is None
    newest = await bucket.newest(f"{project}.*")
    assert newest is not None
    assert (newest.key, newest.value) == (f"{project}.{execution}", b"record")


async def test_many_keys_are_read_at_once(bucket: Bucket) -> None:
    """Those with a value, whatever their number; missing and deleted ones are left out."""
    project = f"p-{uuid.uuid4().hex[:8]}"
    keys = [f"{project}.{number}" for number in range(300)]
    for key in (keys[0], keys[1], keys[-1]):
        await bucket.create(key, key.encode())
    await bucket.delete(keys[1])
    found = await bucket.get_all(keys)
    assert sorted((entry.key, entry.value) for entry in found) == [(key, key.encode()) for key in (keys[0], keys[-1])]
    assert found[0].revision > 0
    assert await bucket.get_all([]) == []


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        (">", "a", True),
    ],
)
def test_subject_matching(pattern: str, subject: str, matches: bool) -> None:
    """The in-memory bus matches subjects as NATS does."""
    assert subject_matches(pattern, subject) is matches
