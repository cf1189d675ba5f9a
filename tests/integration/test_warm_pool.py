"""The pool of warm slots, on the scripted OpenCode with real model proxies, processes and sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ocf.events.lifecycle import Reason
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent import warm_pool, warm_server
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.available_memory import available_memory
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.agent.warm_pool import WarmPool
from ocf.functions.execute.agent.warm_server import WarmServerConfig, open_warm_server
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.execute.sandbox import idle_priority
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady
from ocf.functions.workers.server_boot_queue import available_cores
from tests.support.agents import MODEL, SCRIPTED, Heard, server_spec

OTHER = AgentModel("anthropic", "another")


@pytest.fixture
async def plan(tmp_path: Path) -> AsyncIterator[WarmServerConfig]:
    upstream = Upstream(SystemClock())
    spec = server_spec(tmp_path)

    async def model_proxy() -> ModelProxy:
        return await ModelProxy(upstream, SystemClock()).start()

    yield WarmServerConfig(tmp_path / "slots", spec, model_proxy)
    await upstream.close()


@pytest.fixture
async def make_pool(plan: WarmServerConfig) -> AsyncIterator[Callable[..., WarmPool]]:
    made: list[WarmPool] = []

    def make(**options: object) -> WarmPool:
        made.append(WarmPool(plan, SystemClock(), wanted=True, **options))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


async def ready(pool: WarmPool) -> None:
    async with asyncio.timeout(30):
        await pool.wait_ready()


async def test_a_slot_is_empty_private_and_forgets_its_boot(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool]
) -> None:
    """What the throw-away prompt left is gone: no file, no session, no model call that costs."""
    pool = make_pool()
    await ready(pool)
    slot = await pool.take(plan.spec)
    assert slot is not None
    assert slot.warm
    assert list(slot.directory.iterdir()) == []
    assert slot.directory.stat().st_mode & 0o777 == 0o700
    assert slot.model_proxy.target is None
    assert slot.model_proxy.usage.requests == 0
    heard = Heard()
    (slot.directory / "mine.txt").write_text("x")
    result = await Agent(slot.server, PromptSpec(MODEL), SystemClock()).run('[[steps]] [{"run": "ls"}]', heard.emit)
    assert not result.aborted
    assert "mine.txt" in heard.drafts[-1].data
    await slot.close()
    assert not slot.root.exists()


async def test_a_slot_is_given_once_and_another_takes_its_place_when_told(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool]
) -> None:
    """Two takers never get the same server; none is opened beside the one that is used, before that is over."""
    pool = make_pool()
    await ready(pool)
    first = await pool.take(plan.spec)
    assert first is not None
    assert not pool.ready
    assert await pool.take(plan.spec) is None
    assert list(plan.folder.iterdir()) == [first.root]
    pool.start()
    await ready(pool)
    second = await pool.take(plan.spec)
    assert second is not None
    assert second.server.process.pid != first.server.process.pid
    assert second.model_proxy.token != first.model_proxy.token
    await first.close()
    await second.close()


async def test_one_that_is_being_opened_is_waited_for(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool]
) -> None:
    """It began earlier than one that would be opened now, and two together would both be later."""
    pool = make_pool()
    async with asyncio.timeout(20):
        while not plan.folder.is_dir():
            await asyncio.sleep(0.01)
    slot = await pool.acquire(plan.spec)
    assert slot.warm
    assert list(plan.folder.iterdir()) == [slot.root]
    await slot.close()


async def test_run_joins_spare_boot_that_waits_for_idle_cores(plan: WarmServerConfig) -> None:
    """It demands the boot, which then starts at once, and no second server is opened."""
    asked, demanded = [], asyncio.Event()

    @asynccontextmanager
    async def turn(spare: bool) -> AsyncIterator[bool]:
        asked.append(spare)
        await demanded.wait()
        yield False

    pool = WarmPool(replace(plan, turn=turn, demand=demanded.set), SystemClock(), wanted=True)
    pool.start()
    async with asyncio.timeout(20):
        while not asked:
            await asyncio.sleep(0.01)
    slot = await pool.acquire(plan.spec)
    assert asked == [True]
    assert slot.warm
    await slot.close()
    await pool.close()


@pytest.mark.parametrize(("waiting", "sent"), [(False, 2), (True, 1)])
async def test_spare_boot_sends_its_second_prompt_while_no_run_waits(
    plan: WarmServerConfig, monkeypatch: pytest.MonkeyPatch, waiting: bool, sent: int
) -> None:
    """The second throw-away prompt makes a later run quicker; a run that waits for it would pay for it."""
    prompts, going_on = [], asyncio.Event()

    class Counted(Agent):
        async def run(self, prompt: str, emit: Any) -> Any:
            prompts.append(prompt)
            result = await super().run(prompt, emit)
            await going_on.wait()
            return result

    monkeypatch.setattr(warm_server, "Agent", Counted)
    pool = WarmPool(replace(plan, demand=going_on.set), SystemClock(), wanted=True)
    pool.start()
    async with asyncio.timeout(30):
        while not prompts:
            await asyncio.sleep(0.01)
        if not waiting:
            going_on.set()
            await pool.wait_ready()
        slot = await pool.acquire(plan.spec)
    assert len(prompts) == sent
    await slot.close()
    await pool.close()


async def test_a_run_in_a_shared_folder_waits_for_no_spare_boot(plan: WarmServerConfig, tmp_path: Path) -> None:
    """A spare boot has its turn when no run needs the processors; a run of the same worker must not wait for that."""
    one_at_a_time, requested = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def turn(spare: bool) -> AsyncIterator[bool]:
        async with one_at_a_time:
            if spare:
                requested.set()
                await asyncio.Event().wait()
            yield False

    pool = WarmPool(replace(plan, turn=turn), SystemClock(), wanted=True)
    pool.start()
    try:
        async with asyncio.timeout(30):
            await requested.wait()
            server = await pool.acquire(plan.spec, shared=tmp_path)
        await server.close()
    finally:
        await pool.close()


async def test_run_that_comes_before_the_boot_has_asked_for_its_turn_is_waited_for(plan: WarmServerConfig) -> None:
    """Nobody had the demand then: the boot must ask as one that a run waits for, or it may get its turn never."""
    asked: list[bool] = []
    begun, going_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def turn(spare: bool) -> AsyncIterator[bool]:
        asked.append(spare)
        yield False

    async def slow_model_proxy() -> ModelProxy:
        begun.set()
        await going_on.wait()
        return await plan.make_model_proxy()

    pool = WarmPool(replace(plan, turn=turn, make_model_proxy=slow_model_proxy), SystemClock(), wanted=True)
    pool.start()
    async with asyncio.timeout(30):
        await begun.wait()
        acquiring = asyncio.create_task(pool.acquire(plan.spec))
        while not pool._demanded:
            await asyncio.sleep(0.01)
        going_on.set()
        slot = await acquiring
    assert asked == [False]
    await slot.close()
    await pool.close()


async def test_run_in_a_shared_folder_that_is_cancelled_releases_its_user(
    plan: WarmServerConfig, tmp_path: Path
) -> None:
    """It waits for the end of the spare boot, and no server has the user yet."""
    requested, ending, released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class User:
        async def release(self) -> None:
            released.set()

    @asynccontextmanager
    async def turn(_: bool) -> AsyncIterator[bool]:
        requested.set()
        try:
            await asyncio.Event().wait()
            yield False
        finally:
            ending.set()
            await asyncio.sleep(0.2)

    pool = WarmPool(replace(plan, turn=turn), SystemClock(), wanted=True)
    pool.start()
    async with asyncio.timeout(30):
        await requested.wait()
        acquiring = asyncio.create_task(pool.acquire(plan.spec, shared=tmp_path, user=User()))  # type: ignore[arg-type]
        await ending.wait()
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
        assert released.is_set()
    await pool.close()


@pytest.mark.skipif(not idle_priority.may_return(), reason="this user may not raise priorities")
async def test_idle_boot_has_normal_priority_once_a_run_waits_for_it(plan: WarmServerConfig) -> None:
    """Beside a run it takes idle time only; taken, each of its threads is scheduled like any other."""
    demanded, seen = asyncio.Event(), []

    @asynccontextmanager
    async def turn(spare: bool) -> AsyncIterator[bool]:
        yield spare

    pool = WarmPool(replace(plan, turn=turn, demand=demanded.set), SystemClock(), wanted=True)
    pool.start()
    async with asyncio.timeout(20):
        while not any(policies := _policies()):
            await asyncio.sleep(0.01)
        seen = policies
    assert os.SCHED_IDLE in seen
    slot = await pool.acquire(plan.spec)
    assert demanded.is_set()
    assert set(_policies()) == {os.SCHED_OTHER}
    await slot.close()
    await pool.close()


def _policies() -> list[int]:
    """The scheduling policies of all threads below this process, supervisors left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if "supervisor" not in " ".join(process.cmdline()):
                found += [os.sched_getscheduler(thread.id) for thread in process.threads()]
    return found


async def test_run_that_no_warm_server_fits_boots_its_own(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool]
) -> None:
    """Other limits or another network need a server of their own; the warm one stays for the next."""
    pool = make_pool()
    await ready(pool)
    asked = replace(plan.spec, max_processes=99)
    assert await pool.take(asked) is None
    slot = await pool.acquire(asked)
    assert not slot.warm
    assert slot.server.spec.max_processes == 99
    assert pool.ready
    await slot.close()


async def test_a_model_that_was_asked_for_is_known_to_the_next_slot(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool]
) -> None:
    """The first task of a model opens its own server; later ones find a warm slot. Temperature does not matter.
    The same model that also takes images replaces it."""
    pool = make_pool()
    await ready(pool)
    asked = replace(plan.spec, models=(replace(OTHER, temperature=0.5, max_tokens=10),))
    assert await pool.take(asked) is None
    used = await pool.take(plan.spec)
    assert used is not None
    await used.close()
    pool.start()
    await ready(pool)
    slot = await pool.take(asked)
    assert slot is not None
    await slot.close()
    seeing = OTHER.taking(["image"])
    assert await pool.take(replace(plan.spec, models=(seeing,))) is None
    pool.start()
    await ready(pool)
    slot = await pool.take(replace(plan.spec, models=(seeing,)))
    assert slot is not None
    assert [one for one in slot.server.spec.models if one.name == OTHER.name] == [seeing]
    await slot.close()


async def test_a_dead_slot_is_replaced(plan: WarmServerConfig, make_pool: Callable[..., WarmPool]) -> None:
    """A server that dies while it waits is never given to anybody."""
    pool = make_pool()
    await ready(pool)
    victim = pool._warm_server
    assert victim is not None
    os.kill(victim.server.process.pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while pool._warm_server in (None, victim):
            await asyncio.sleep(0.02)
    slot = await pool.take(plan.spec)
    assert slot is not None
    assert slot is not victim
    assert not victim.root.exists()
    await slot.close()


async def test_short_memory_gives_slots_up(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting servers end when memory is short, and none is opened until there is enough."""
    monkeypatch.setattr(warm_pool, "_WATCH_SECONDS", 0.05)
    free = [warm_pool.MIN_FREE_BYTES * 2]
    pool = make_pool(free=lambda: free[0])
    await ready(pool)
    assert pool._warm_server is not None
    root = pool._warm_server.root
    free[0] = 0
    async with asyncio.timeout(20):
        while pool.ready or root.exists():
            await asyncio.sleep(0.02)
    assert await pool.take(plan.spec) is None


async def test_a_boot_whose_prompt_is_not_answered_is_not_ready(
    plan: WarmServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory was not booted, and no work was done: another attempt may follow."""

    class Silent(Agent):
        async def run(self, prompt: str, emit: Any) -> Any:
            raise AgentFailed(Reason.AGENT_ERROR, "OpenCode does not answer: POST /session: ReadTimeout")

    monkeypatch.setattr(warm_server, "Agent", Silent)
    with pytest.raises(AgentNotReady, match="POST /session: ReadTimeout"):
        await open_warm_server(plan, plan.spec, SystemClock())
    assert list(plan.folder.iterdir()) == []


async def test_a_failing_start_is_said_and_leaves_nothing(plan: WarmServerConfig) -> None:
    """A slot that cannot be opened raises with the reason; its folder and its model proxy are gone."""
    broken = replace(plan.spec, binary=SCRIPTED.parent / "opencode-wrong-version")
    with pytest.raises(AgentFailed, match="not supported"):
        await open_warm_server(plan, broken, SystemClock())
    assert list(plan.folder.iterdir()) == []


async def test_close_ends_everything(plan: WarmServerConfig, make_pool: Callable[..., WarmPool]) -> None:
    """No process and no file of a slot that nobody took is left."""
    pool = make_pool()
    await ready(pool)
    assert pool._warm_server is not None
    pid = pool._warm_server.server.process.pid
    await pool.close()
    assert list(plan.folder.iterdir()) == []
    assert not Path(f"/proc/{pid}").exists()


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


async def test_a_server_starts_and_boots_when_it_is_its_turn(
    plan: WarmServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six are opened together, two at a time, boot included; the time that one waits for its turn is not its own."""
    starting, most = 0, 0
    two = asyncio.Semaphore(2)

    @asynccontextmanager
    async def turn(spare: bool) -> AsyncIterator[bool]:
        nonlocal starting, most
        async with two:
            starting += 1
            most = max(most, starting)
            yield spare
            starting -= 1

    booted = warm_server._boot

    async def boot(*told: Any) -> None:
        assert 0 < starting <= 2
        await booted(*told)

    monkeypatch.setattr(warm_server, "_boot", boot)
    opened = await asyncio.gather(
        *(open_warm_server(replace(plan, turn=turn), plan.spec, SystemClock()) for _ in range(6))
    )
    assert (most, starting) == (2, 0)
    for slot in opened:
        await slot.close()


@pytest.mark.parametrize("moment", ["taken", "dead", "opening"])
async def test_a_worker_that_stops_leaves_no_slot_of_which_it_was_in_the_middle(
    plan: WarmServerConfig, make_pool: Callable[..., WarmPool], moment: str
) -> None:
    """One whose taker was cancelled, one that just died, one that is being opened: no folder, no process."""
    pool = make_pool()
    if moment == "opening":
        async with asyncio.timeout(20):
            while not plan.folder.is_dir():
                await asyncio.sleep(0.01)
    else:
        await ready(pool)
        assert pool._warm_server is not None
        process = pool._warm_server.server.process
        if moment == "taken":
            taker = asyncio.create_task(pool.take(plan.spec))
            await asyncio.sleep(0)
            taker.cancel()
            await asyncio.gather(taker, return_exceptions=True)
        else:
            os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await process.exited()
    await pool.close()
    async with asyncio.timeout(20):
        while list(plan.folder.iterdir()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("moment", ["model proxy", "files", "server"])
async def test_a_start_that_is_cancelled_twice_leaves_nothing(
    plan: WarmServerConfig, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whatever it is at: the folder is gone once nothing writes to it any more."""
    there = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def model_proxy() -> ModelProxy:
        there.set()
        await asyncio.sleep(0)
        return await plan.make_model_proxy()

    def files(directory: Path) -> None:
        loop.call_soon_threadsafe(there.set)
        for number in range(200):
            (directory / str(number)).mkdir(parents=True)

    async def server(_: ServerSpec) -> AgentServer:
        there.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    if moment == "files":
        monkeypatch.setattr(warm_server, "_make_git_folder", files)
    elif moment == "server":
        monkeypatch.setattr(AgentServer, "start", server)
    used = replace(plan, make_model_proxy=model_proxy) if moment == "model proxy" else plan
    opening = asyncio.create_task(open_warm_server(used, plan.spec, SystemClock()))
    await there.wait()
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    async with asyncio.timeout(30):
        while plan.folder.is_dir() and list(plan.folder.iterdir()):
            await asyncio.sleep(0.01)
