"""The pool of warm slots, on the scripted OpenCode with real brokers, processes and sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from functions.clock import SystemClock
from functions.execute import slots
from functions.execute.agent import Agent, TurnSpec
from functions.execute.agent_config import AgentModel, ServerSpec
from functions.execute.agent_memory import available_cores, available_memory
from functions.execute.agent_server import AgentServer
from functions.execute.broker import Broker, Upstream
from functions.execute.process import AgentFailed
from functions.execute.slots import SlotPlan, SlotPool, open_slot
from tests.support.agents import MODEL, SCRIPTED, Heard, server_spec

OTHER = AgentModel("anthropic", "another")


@pytest.fixture(autouse=True)
def _no_refill_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "REFILL_DELAY", 0.0)


@pytest.fixture
async def plan(tmp_path: Path) -> AsyncIterator[SlotPlan]:
    upstream = Upstream(SystemClock())
    spec = server_spec(tmp_path)

    async def broker() -> Broker:
        return await Broker(upstream, SystemClock()).start()

    yield SlotPlan(tmp_path / "slots", spec, broker)
    await upstream.close()


@pytest.fixture
async def make_pool(plan: SlotPlan) -> AsyncIterator[Callable[..., SlotPool]]:
    made: list[SlotPool] = []

    def make(size: int = 1, **options: object) -> SlotPool:
        made.append(SlotPool(plan, size, SystemClock(), **options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def ready(pool: SlotPool, count: int = 1) -> None:
    async with asyncio.timeout(30):
        await pool.wait_ready(count)


async def test_a_slot_is_empty_private_and_forgets_its_boot(plan: SlotPlan, make_pool: Callable[..., SlotPool]) -> None:
    """What the throw-away prompt left is gone: no file, no session, no model call that costs."""
    pool = make_pool()
    await ready(pool)
    slot = await pool.take(plan.spec)
    assert slot is not None
    assert slot.warm
    assert list(slot.directory.iterdir()) == []
    assert slot.directory.stat().st_mode & 0o777 == 0o700
    assert slot.broker.target is None
    assert slot.broker.usage.requests == 0
    heard = Heard()
    (slot.directory / "mine.txt").write_text("x")
    result = await Agent(slot.server, TurnSpec(MODEL), SystemClock()).run('[[steps]] [{"run": "ls"}]', heard.emit)
    assert not result.aborted
    assert "mine.txt" in heard.drafts[-1].data
    await slot.close()
    assert not slot.root.exists()


async def test_a_slot_is_given_once_and_another_takes_its_place(
    plan: SlotPlan, make_pool: Callable[..., SlotPool]
) -> None:
    """Two takers never get the same server."""
    pool = make_pool()
    await ready(pool)
    first = await pool.take(plan.spec)
    assert first is not None
    assert pool.ready == 0
    assert await pool.take(plan.spec) is None
    await ready(pool)
    second = await pool.take(plan.spec)
    assert second is not None
    assert second.server.process.pid != first.server.process.pid
    assert second.broker.token != first.broker.token
    await first.close()
    await second.close()


async def test_what_a_slot_cannot_serve_is_opened_on_demand(plan: SlotPlan, make_pool: Callable[..., SlotPool]) -> None:
    """Other limits or another network need a server of their own; the warm one stays for the next."""
    pool = make_pool()
    await ready(pool)
    asked = replace(plan.spec, max_processes=99)
    assert await pool.take(asked) is None
    slot = await pool.acquire(asked)
    assert not slot.warm
    assert slot.server.spec.max_processes == 99
    assert pool.ready == 1
    await slot.close()


async def test_a_model_that_was_asked_for_is_known_to_the_next_slot(
    plan: SlotPlan, make_pool: Callable[..., SlotPool]
) -> None:
    """The first task of a model opens its own server; later ones find a warm slot. Temperature does not matter."""
    pool = make_pool()
    await ready(pool)
    asked = replace(plan.spec, models=(replace(OTHER, temperature=0.5, max_tokens=10),))
    assert await pool.take(asked) is None
    used = await pool.take(plan.spec)
    assert used is not None
    await used.close()
    await ready(pool)
    slot = await pool.take(asked)
    assert slot is not None
    await slot.close()


async def test_a_dead_slot_is_replaced(plan: SlotPlan, make_pool: Callable[..., SlotPool]) -> None:
    """A server that dies while it waits is never given to anybody."""
    pool = make_pool()
    await ready(pool)
    victim = pool._ready[0]
    os.kill(victim.server.process.pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while pool._ready[:1] in ([], [victim]):
            await asyncio.sleep(0.02)
    slot = await pool.take(plan.spec)
    assert slot is not None
    assert slot is not victim
    assert not victim.root.exists()
    await slot.close()


async def test_short_memory_gives_slots_up(plan: SlotPlan, make_pool: Callable[..., SlotPool]) -> None:
    """Waiting servers end when memory is short, and none is opened until there is enough."""
    free = [slots.MIN_FREE_BYTES * 2]
    pool = make_pool(free=lambda: free[0])
    await ready(pool)
    root = pool._ready[0].root
    free[0] = 0
    pool._refill()
    async with asyncio.timeout(20):
        while pool.ready or root.exists():
            await asyncio.sleep(0.02)
    assert await pool.take(plan.spec) is None


async def test_a_failing_start_is_said_and_leaves_nothing(plan: SlotPlan) -> None:
    """A slot that cannot be opened raises with the reason; its folder and its broker are gone."""
    broken = replace(plan.spec, binary=SCRIPTED.parent / "opencode-wrong-version")
    with pytest.raises(AgentFailed, match="not supported"):
        await open_slot(plan, broken, SystemClock())
    assert list(plan.folder.iterdir()) == []


async def test_close_ends_everything(plan: SlotPlan, make_pool: Callable[..., SlotPool]) -> None:
    """No process and no file of a slot that nobody took is left."""
    pool = make_pool(size=2)
    await ready(pool, 2)
    pids = [slot.server.process.pid for slot in pool._ready]
    await pool.close()
    assert list(plan.folder.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    """In a cgroup with a limit, what is left of it; droppable cache counts as free."""
    for name, value in (
        ("memory.max", "1000"),
        ("memory.current", "700"),
        ("memory.stat", "anon 1\ninactive_file 200\n"),
    ):
        (tmp_path / name).write_text(value)
    assert available_memory(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max")
    assert available_memory(tmp_path) > 1000
    assert available_memory(tmp_path / "none") > 1000


def test_processors_are_the_containers_when_those_are_fewer(tmp_path: Path) -> None:
    """cgroup v2: quota by period, a part counts as one; without a bound the machine's."""
    (tmp_path / "cpu.max").write_text("max 100000\n")
    everything = available_cores(tmp_path)
    assert everything == available_cores(tmp_path / "none") >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert available_cores(tmp_path) == 1


async def test_no_more_servers_start_at_once_than_there_are_processors(
    plan: SlotPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six are opened together, two start at a time; the time that one waits for its turn is not its own."""
    starting, most = 0, 0
    start = AgentServer.start

    async def counted(spec: ServerSpec) -> AgentServer:
        nonlocal starting, most
        starting += 1
        most = max(most, starting)
        try:
            return await start(spec)
        finally:
            starting -= 1

    monkeypatch.setattr(AgentServer, "start", counted)
    two = replace(plan, starts=asyncio.Semaphore(2))
    opened = await asyncio.gather(*(open_slot(two, plan.spec, SystemClock()) for _ in range(6)))
    assert most == 2
    for slot in opened:
        await slot.close()


async def test_a_worker_that_stops_leaves_no_slot_of_which_it_was_in_the_middle(
    plan: SlotPlan, make_pool: Callable[..., SlotPool]
) -> None:
    """One whose taker was cancelled, one that just died, one that is being opened: no folder, no process."""
    pool = make_pool(2)
    await ready(pool, 2)
    taken, dead = (slot.server.process for slot in pool._ready)
    taker = asyncio.create_task(pool.take(plan.spec))
    await asyncio.sleep(0)
    taker.cancel()
    await asyncio.gather(taker, return_exceptions=True)
    os.kill(dead.pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        await dead.exited()
    await pool.close()
    await taken.exited()
    assert list(plan.folder.iterdir()) == []


@pytest.mark.parametrize("moment", ["broker", "files", "server"])
async def test_a_start_that_is_cancelled_twice_leaves_nothing(
    plan: SlotPlan, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whatever it is at: the folder is gone once nothing writes to it any more."""
    there = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def broker() -> Broker:
        there.set()
        await asyncio.sleep(0)
        return await plan.make_broker()

    def files(directory: Path) -> None:
        loop.call_soon_threadsafe(there.set)
        for number in range(200):
            (directory / str(number)).mkdir(parents=True)

    async def server(_: ServerSpec) -> AgentServer:
        there.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    if moment == "files":
        monkeypatch.setattr(slots, "_lay_out_git", files)
    elif moment == "server":
        monkeypatch.setattr(AgentServer, "start", server)
    used = replace(plan, make_broker=broker) if moment == "broker" else plan
    opening = asyncio.create_task(open_slot(used, plan.spec, SystemClock()))
    await there.wait()
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    async with asyncio.timeout(30):
        while plan.folder.is_dir() and list(plan.folder.iterdir()):
            await asyncio.sleep(0.01)
