"""What a worker waits for before it takes an execution, and when it gives one up because it must leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ocf.events.errors import KeyNotYetKnown, Unavailable
from ocf.events.lifecycle import Reason, State
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.execute import worker as worker_module
from tests.support.parts import PROJECT
from tests.support.runs import worker_on
from tests.unit.test_attempt import Emit, Scene, StandIn, scene

OLD, NEW = generate_key(), generate_key()


def sealed(key: str) -> dict[str, str]:
    return Keyring(key).seal("sk-of-a-tenant", PROJECT).model_dump()


def requests() -> list[dict[str, object]]:
    """Tasks with a secret under the new key: of a model, and of a repository."""
    return [
        {"model_config": {"provider": "openai", "model": "m", "api_key": sealed(NEW)}},
        {"workspace": {"source": "git", "url": "https://git.example.com/r.git", "token": sealed(NEW)}},
    ]


def with_keys(run: Scene, current: str, *retired: str) -> None:
    """Give the scene a worker with these keys, as a pod that started after the Secret had changed."""
    run.worker = worker_on(replace(run.bench.deps, keyring=Keyring(current, retired)), run.turn)


@pytest.mark.parametrize("request_", requests(), ids=["model", "repository"])
async def test_a_key_that_is_not_known_yet_is_waited_for(request_: dict[str, object], tmp_path: Path) -> None:
    """The gateway seals with the new key and this pod has the old one: the execution goes back to the queue and stays
    pending; a pod that knows the key completes it."""
    async with scene(tmp_path, **request_) as run:

        async def done(self: StandIn, emit: Emit) -> None:
            return None

        run.turn.script = done
        with_keys(run, OLD)
        with pytest.raises(KeyNotYetKnown, match=Keyring(NEW).current_id):
            await run.begin()
        record = await run.record()
        assert (record.state, record.attempts) == (State.PENDING, [])
        with_keys(run, OLD, NEW)  # the first phase of a rotation
        await run.begin()
        assert (await run.record()).state is State.COMPLETED


async def test_a_key_that_nobody_knows_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `KEY_SECONDS` the worker takes the execution, which fails with the reason (`model_auth`)."""
    async with scene(tmp_path, **requests()[0]) as run:
        with_keys(run, OLD)
        keyring = run.worker._deps.keyring
        assert keyring is not None

        async def opens(self: StandIn, emit: Emit) -> None:
            keyring.open(Keyring(NEW).seal("x", PROJECT), PROJECT)

        run.turn.script = opens
        monkeypatch.setattr(worker_module, "KEY_SECONDS", 0.0)
        await run.begin()
        record = await run.record()
        assert (record.state, record.reason) == (State.FAILED, Reason.MODEL_AUTH)
        assert "ENCRYPTION_KEYS_RETIRED" in (record.message or "")


class Away:
    """NATS as the worker's check sees it."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    async def ready(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("not connected to NATS")


@pytest.fixture
def nats(monkeypatch: pytest.MonkeyPatch) -> Away:
    """Two minutes pass in a fifth of a second."""
    monkeypatch.setattr(worker_module, "CUT_OFF_SECONDS", 0.2)
    monkeypatch.setattr(worker_module, "_CUT_OFF_CHECK", 0.01)
    return Away()


async def test_an_outage_alone_ends_nothing(tmp_path: Path, nats: Away) -> None:
    """A worker that was not told to stop waits for NATS, however long; one that was told so stays while it answers."""
    async with scene(tmp_path) as run:
        run.bench.deps.bus.ready = nats.ready  # type: ignore[method-assign]
        nats.away = True
        running = run.begin()
        await run.begun()
        await asyncio.wait({running}, timeout=0.5)
        assert not running.done()
        assert nats.asked == 0
        nats.away = False
        run.worker.leave()
        await run.until(lambda: _asked(nats, 40), "it looks after NATS")
        assert not running.done()


async def _asked(nats: Away, times: int) -> bool:
    return nats.asked >= times


async def test_told_to_stop_and_cut_off_a_worker_ends_its_agent_and_leaves(
    tmp_path: Path, nats: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's processes end, the request is answered, the execution stays `running` for the sweep to judge."""
    closed = asyncio.Event()

    async def close(self: StandIn) -> None:
        closed.set()

    async with scene(tmp_path) as run:
        monkeypatch.setattr(run.turn, "close", close)
        run.bench.deps.bus.ready = nats.ready  # type: ignore[method-assign]
        running = run.begin()
        await run.begun()
        nats.away = True
        draining = asyncio.create_task(run.worker.drained(timedelta(hours=1).total_seconds()))
        with pytest.raises(Unavailable, match="NATS is away"):
            await asyncio.wait_for(running, 5)
        await asyncio.wait_for(draining, 5)
        assert closed.is_set()
        record = await run.record()
        assert (record.state, record.attempts[-1].ended) == (State.RUNNING, None)
