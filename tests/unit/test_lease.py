"""The lease: one owner at a time, by the server's clock, and honest about what is not known."""

from __future__ import annotations

import asyncio
import json

import pytest

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.errors import Conflict, NotYetKnown, Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Entry
from ocf.functions.execute.attempt.lease import RENEW_EVERY, SAFE, TTL, Lease
from ocf.functions.observability import metrics
from tests.support.clock import ManualClock
from tests.support.measures import value

KEY = ExecutionRef("p", "e").lease_key


class ShakyBucket(MemoryBucket):
    """A bucket whose bus can be away; `lost` answers: it does what is asked, and the answer never comes."""

    away = False
    lost = False

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        #: Whether the execution is still the attempt's, and who asked.
        self.open: bool | NotYetKnown = True
        self.asked: list[str] = []

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        if self.away:
            raise Unavailable("away")
        found = await super().update(key, value, revision, ttl=ttl)
        if self.lost:
            raise Unavailable("no answer")
        return found

    async def get(self, key: str) -> Entry | None:
        if self.away:
            raise Unavailable("away")
        return await super().get(key)


def two() -> tuple[ManualClock, ShakyBucket, Lease, Lease]:
    clock = ManualClock()
    bucket = ShakyBucket(clock)
    return clock, bucket, lease(bucket, clock, "one"), lease(bucket, clock, "two")


def lease(bucket: ShakyBucket, clock: ManualClock, worker: str) -> Lease:
    async def reclaim(attempt: int) -> bool:
        bucket.asked.append(worker)
        if bucket.away:
            raise Unavailable("away")
        if isinstance(bucket.open, NotYetKnown):
            raise bucket.open
        return bucket.open

    return Lease(bucket, clock, "p", "e", worker=worker, reclaim=reclaim)


async def test_one_worker_at_a_time() -> None:
    """While one holds it, another gets Conflict; when it is released, the other gets it."""
    _, _, one, two_ = two()
    await one.acquire(1)
    with pytest.raises(Conflict):
        await two_.acquire(1)
    await one.release()
    await two_.acquire(1)
    assert two_.held


async def test_it_expires_when_nobody_renews_it() -> None:
    """After its TTL another worker may take it; well before that its owner no longer counts on it."""
    clock, _, one, two_ = two()
    await one.acquire(1)
    await clock.advance(SAFE)
    assert not one.held
    await clock.advance(TTL - SAFE)
    await two_.acquire(2)
    assert two_.held


async def test_renewing_keeps_it() -> None:
    """`keep` renews it long past its TTL."""
    clock, _, one, two_ = two()
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    for _ in range(10):
        await clock.advance(RENEW_EVERY)
        assert one.held
        with pytest.raises(Conflict):
            await two_.acquire(1)
    keeping.cancel()


async def test_worker_that_finds_another_owner_stops() -> None:
    """A worker that slept through its TTL sees at the next renewal that it is lost, and never gets it back."""
    clock, _, one, two_ = two()
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    await one.release()
    await two_.acquire(2)
    await clock.advance(RENEW_EVERY)
    await asyncio.wait_for(keeping, 1)
    assert one.lost.is_set()
    assert not await one.wait_until_held()
    assert two_.held


async def test_a_takeover_is_counted_once_and_an_end_is_none() -> None:
    """Another worker has the key, or was faster to take it when it had run out: one each. What the sweep has ended, or
    somebody deleted, nobody took over."""
    clock, bucket, one, two_ = two()
    before = value(metrics.leases_lost)
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    await one.release()
    await two_.acquire(2)
    await clock.advance(RENEW_EVERY)
    await asyncio.wait_for(keeping, 1)
    assert value(metrics.leases_lost) - before == 1

    clock, bucket, one, two_ = two()
    keeping = await frozen(clock, one)
    create = bucket.create

    async def faster(key: str, value: bytes, *, ttl: int | None = None) -> int:
        await create(key, b"{}", ttl=ttl)
        return await create(key, value, ttl=ttl)

    bucket.create = faster  # type: ignore[method-assign]
    await clock.advance(RENEW_EVERY)
    await asyncio.wait_for(keeping, 1)
    assert value(metrics.leases_lost) - before == 2

    for ended in (False, NotYetKnown("deleted")):
        clock, bucket, one, _ = two()
        bucket.open = ended
        keeping = await frozen(clock, one)
        await clock.advance(RENEW_EVERY)
        await asyncio.wait_for(keeping, 1)
        assert one.lost.is_set()
    assert value(metrics.leases_lost) - before == 2


async def test_while_the_bus_is_away_it_waits_and_goes_on_after() -> None:
    """Without the bus nobody can take it: `sure` waits, and says yes once a renewal went through."""
    clock, bucket, one, _ = two()
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    bucket.away = True
    for _ in range(4):
        await clock.advance(RENEW_EVERY)
    assert not one.held
    waiting = asyncio.create_task(one.wait_until_held())
    await asyncio.sleep(0)
    assert not waiting.done()
    bucket.away = False
    await clock.advance(RENEW_EVERY)
    assert await asyncio.wait_for(waiting, 1)
    assert not one.lost.is_set()
    keeping.cancel()


async def test_a_renewal_whose_answer_was_lost_is_recognised() -> None:
    """The key is newer than the owner knows, and by its own hand: it goes on."""
    clock, bucket, one, _ = two()
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    bucket.lost = True
    await clock.advance(RENEW_EVERY)
    bucket.lost = False
    await clock.advance(RENEW_EVERY)
    await clock.advance(RENEW_EVERY)
    assert one.held
    assert not one.lost.is_set()
    keeping.cancel()


async def test_release_after_a_renewal_that_was_cut_off() -> None:
    """The key is gone at once, though its revision had moved on unseen."""
    _, bucket, one, _ = two()
    await one.acquire(1)
    entry = await bucket.get(KEY)
    assert entry is not None
    await bucket.update(KEY, entry.value, entry.revision, ttl=TTL)
    await one.release()
    assert await bucket.get(KEY) is None


async def test_release_leaves_what_is_somebody_elses() -> None:
    """A late release does not take the lease from the next owner."""
    clock, bucket, one, two_ = two()
    await one.acquire(1)
    await clock.advance(TTL)
    await two_.acquire(2)
    await one.release()
    entry = await bucket.get(KEY)
    assert entry is not None
    assert json.loads(entry.value) == {"worker": "two", "attempt": 2}


async def frozen(clock: ManualClock, one: Lease) -> asyncio.Task[None]:
    """`one` is asleep for far longer than its TTL, and awake again; its renewal is due."""
    await one.acquire(1)
    keeping = asyncio.create_task(one.keep_alive(1))
    await asyncio.sleep(0)
    clock.skip(3 * TTL)
    return keeping


async def test_suspended_worker_goes_on_if_nobody_took_over() -> None:
    """The key had expired, and the record is as it was: the worker has it again, once the record was asked."""
    clock, bucket, one, _ = two()
    keeping = await frozen(clock, one)
    assert not one.held
    await clock.advance(RENEW_EVERY)
    assert one.held
    assert bucket.asked == ["one"]
    await clock.advance(RENEW_EVERY)
    assert bucket.asked == ["one"]
    keeping.cancel()


async def test_suspended_worker_stops_if_the_execution_ended() -> None:
    """The key had expired and the sweep has ended the execution: it is lost, nothing more is said, no lease is left."""
    clock, bucket, one, _ = two()
    bucket.open = False
    keeping = await frozen(clock, one)
    await clock.advance(RENEW_EVERY)
    await asyncio.wait_for(keeping, 1)
    assert one.lost.is_set()
    assert not await one.wait_until_held()
    assert await bucket.get(KEY) is None


async def test_until_the_record_answers_nothing_is_sure() -> None:
    """The key could be taken again, the record could not be asked: the lease does not count until it was."""
    clock, bucket, one, _ = two()
    keeping = await frozen(clock, one)
    renewed = one._renew

    async def away_for_the_record(attempt: int) -> bool:
        bucket.away = False
        reclaim, one._reclaim = one._reclaim, _unavailable
        try:
            return await renewed(attempt)
        finally:
            one._reclaim = reclaim

    assert await away_for_the_record(1)
    assert not one.held
    await clock.advance(RENEW_EVERY)
    assert one.held
    keeping.cancel()


async def _unavailable(_: int) -> bool:
    raise Unavailable("away")


async def test_a_lease_that_nobody_can_renew_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody thought of ends the renewals; the worker learns that at once, and does not wait for ever."""
    clock, bucket, one, _ = two()
    await one.acquire(1)

    async def broken(*_: object, **__: object) -> int:
        raise KeyError("a record")

    monkeypatch.setattr(bucket, "update", broken)
    keeping = asyncio.create_task(one.keep_alive(1))
    while not keeping.done():
        await asyncio.sleep(0)
        await clock.advance(RENEW_EVERY)
    await keeping
    assert one.lost.is_set()
    assert not await one.wait_until_held()
