"""The election among replicas of a dispatcher: one leads, the next one follows soon, and nobody leads for ever."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.command_payloads import Cancel
from ocf.events.errors import Unavailable
from ocf.events.ports import Backlog, Entry
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher import main
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.runtime.leader import LOOK_EVERY, RENEW_EVERY, TTL, Leader
from tests.support.clock import ManualClock
from tests.support.parts import PROJECT, bench

KEY = "dispatcher"


class Away(MemoryBucket):
    """A bucket whose bus can be away."""

    away = False

    async def get(self, key: str) -> Entry | None:
        if self.away:
            raise Unavailable("away")
        return await super().get(key)

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        if self.away:
            raise Unavailable("away")
        return await super().update(key, value, revision, ttl=ttl)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        if self.away:
            raise Unavailable("away")
        await super().delete(key, revision=revision)


class Replica:
    """One replica: waits until it leads, and leads until another one does."""

    def __init__(self, bucket: Away, clock: ManualClock, pod: str) -> None:
        self.leader = Leader(bucket, KEY, pod, clock)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.leader.acquire()
            await self.leader.keep()

    async def leads(self) -> bool:
        return await self.leader.state() == "leads"

    async def dies(self) -> None:
        """End without releasing the lease."""
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bucket(clock: ManualClock) -> Away:
    return Away(clock)


async def settle(clock: ManualClock, seconds: float, so: Callable[[], Awaitable[bool]] | None = None) -> float:
    """Let time pass in small steps, until it is so; return the seconds."""
    passed = 0.0
    while passed < seconds and not (so is not None and await so()):
        for _ in range(5):
            await asyncio.sleep(0)
        await clock.advance(0.5)
        passed += 0.5
    for _ in range(5):
        await asyncio.sleep(0)
    return passed


async def test_one_leads_and_the_others_stand_by(bucket: Away, clock: ManualClock) -> None:
    """For a minute, over many renewals."""
    replicas = [Replica(bucket, clock, f"pod-{number}") for number in range(3)]
    for _ in range(20):
        await settle(clock, 3)
        assert [await one.leads() for one in replicas] == [True, False, False]
    for one in replicas:
        await one.dies()


async def test_a_leader_that_dies_is_followed_within_its_lease(bucket: Away, clock: ManualClock) -> None:
    """And one that is told to go, within a look."""
    first, second = Replica(bucket, clock, "a"), Replica(bucket, clock, "b")
    await settle(clock, 4)
    await first.dies()
    assert await settle(clock, 60, second.leads) <= TTL + LOOK_EVERY + 0.5
    third = Replica(bucket, clock, "c")
    await settle(clock, 4)
    await second.dies()
    await second.leader.release()
    assert await settle(clock, 60, third.leads) <= LOOK_EVERY + 0.5
    await third.dies()


async def test_a_restarted_container_goes_on_at_once(bucket: Away, clock: ManualClock) -> None:
    """Its pod has the name that the lease has."""
    first = Replica(bucket, clock, "a")
    await settle(clock, 4)
    await first.dies()
    again = Replica(bucket, clock, "a")
    assert await settle(clock, 60, again.leads) <= 0.5
    await again.dies()


async def test_an_outage_of_nats_changes_no_leader_by_itself(bucket: Away, clock: ManualClock) -> None:
    """Nobody can take the lease meanwhile. Afterwards one leads, whichever is first."""
    first, second = Replica(bucket, clock, "a"), Replica(bucket, clock, "b")
    await settle(clock, 4)
    bucket.away = True
    await settle(clock, 60)
    assert (await first.leads(), await second.leads()) == (True, False)
    bucket.away = False
    await settle(clock, TTL + RENEW_EVERY + LOOK_EVERY)
    assert sorted([await first.leads(), await second.leads()]) == [False, True]
    for one in (first, second):
        await one.dies()


async def test_one_that_was_frozen_leads_no_more(bucket: Away, clock: ManualClock) -> None:
    """Another one has the lease: it stands by after its next renewal, and does not release what is not its own."""
    first = Replica(bucket, clock, "a")
    await settle(clock, 4)
    clock.skip(TTL + 1)
    second = Leader(bucket, KEY, "b", clock)
    await second.acquire()
    await settle(clock, RENEW_EVERY)
    assert not await first.leads()
    await first.dies()
    await first.leader.release()
    found = await bucket.get(KEY)
    assert found is not None
    assert found.value == b"b"


async def test_without_a_key_everybody_leads(bucket: Away, clock: ManualClock) -> None:
    """One machine has one dispatcher, and no election."""
    leaders = [Leader(bucket, "", "a", clock) for _ in range(2)]
    for one in leaders:
        await one.acquire()
    assert [await one.state() for one in leaders] == ["leads", "leads"]
    assert await bucket.get(KEY) is None


async def test_a_leader_that_is_told_to_stop_finishes_what_is_in_flight() -> None:
    """The function answers after half a second: the message is acknowledged, and the lease is gone for the next one."""
    row = next(row for row in ROUTES if row.consumer == "cancel")
    b = bench(SystemClock(), DISPATCH_LEADER=KEY)
    execution, asked = str(uuid.uuid4()), asyncio.Event()
    cancel = b.command("dev.ocf.task.cancel.v1", Cancel(project_id=PROJECT, execution_id=execution))
    await b.bus.publish(subjects.command("cancel", PROJECT, execution), cancel.data, cancel.headers())

    async def answer(_: httpx2.Request) -> httpx2.Response:
        asked.set()
        await asyncio.sleep(0.5)
        return httpx2.Response(200)

    leader, stop = Leader(b.deps.executions, KEY, "a", b.deps.clock), asyncio.Event()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        dispatching = asyncio.create_task(main._dispatch(b.deps, leader, http, http, stop))
        async with asyncio.timeout(10):
            await asked.wait()
            assert await b.deps.executions.get(KEY) is not None
            stop.set()
            await dispatching
    assert await b.bus.backlog(row.own(PROJECT, 1)) == Backlog(0, 0)
    assert await b.deps.executions.get(KEY) is None


async def test_a_standby_that_is_told_to_stop_ends() -> None:
    """And leaves the lease of the other one."""
    b = bench(SystemClock(), DISPATCH_LEADER=KEY)
    await b.deps.executions.create(KEY, b"other")
    leader, stop = Leader(b.deps.executions, KEY, "a", b.deps.clock), asyncio.Event()
    stop.set()
    async with httpx2.AsyncClient() as http, asyncio.timeout(10):
        await main._dispatch(b.deps, leader, http, http, stop)
    assert await b.deps.executions.get(KEY) is not None
