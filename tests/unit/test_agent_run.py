"""The agent's side of an attempt, with an agent of the test's own: what it may spend, and what it says of secrets."""

from __future__ import annotations

import json
import uuid
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from ocf.events.command_payloads import Execute
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, Usage
from ocf.functions.execute.agent.agent import AgentResult
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.attempt import preparation
from ocf.functions.execute.attempt.agent_run import AgentRun
from ocf.functions.execute.attempt.watchdog import Activity
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.execute.sandbox.isolation_boundary import Boundary
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.prices import Prices
from ocf.functions.settings.settings import Settings
from tests.support.parts import PROJECT, Bench, bench

KEY = "sk-planted-7fK2-0123456789"
PASSWORD = "the-password-of-opencode-0123456789"
USED = Usage(requests=3, input_tokens=1000, cost_usd=0.75)


class Agent:
    """Repeats the key wherever it can, then does what `ends` says."""

    ends: Exception | None = None
    deaf = False
    aborted = 0

    def __init__(self, *_: object) -> None:
        self.waiting: frozenset[str] = frozenset()

    def open(self) -> None:
        """There is no server."""

    def resume(self, session: str | None) -> None:
        """It continues nothing."""
        assert session is None

    async def close(self) -> None:
        """Nothing was opened."""

    def expire(self, _: str) -> None:
        """It asks nothing."""

    async def run(self, prompt: str, emit: Any) -> AgentResult:
        items = [{"content": f"use {KEY}", "status": "pending", "priority": "high"}]
        await emit(Draft(type=ChunkType.TODO, data="1 to do", detail={"items": items}))
        await emit(Draft(type=ChunkType.TEXT, data="hello", detail={"part_id": "p"}, merge_key="p"))
        if self.ends is not None:
            raise self.ends
        return AgentResult(f"the key is {KEY}", Usage(), "ses_1")

    async def export(self) -> dict[str, object]:
        if self.deaf:
            raise OpenCodeError("it does not answer")
        return {"info": {"id": "ses_1"}, "messages": [{"text": KEY}]}

    async def abort(self) -> None:
        type(self).aborted += 1


class World:
    """A turn on a slot without a server."""

    def __init__(self, folder: Path, b: Bench, limits: dict[str, Any], prices: Prices | None) -> None:
        self.said: list[Draft] = []
        self.graces: list[float] = []
        self.b = b
        self.model_proxy = ModelProxy(Upstream(b.deps.clock), b.deps.clock)
        key = SecretStr(KEY)
        target = ModelTarget("openai", "m", "openai", "http://127.0.0.1:9/v1", key, prices=prices)
        spec = ServerSpec(None, folder, folder, "", "", ())
        slots = SimpleNamespace(acquire=self._acquire)
        boundary = Boundary(Settings(STATE_DIR=folder / "state"), self._busy)  # type: ignore[call-arg]
        context = SimpleNamespace(
            deps=b.deps, slots=slots, target=lambda task: target, server_spec=lambda limits: spec, boundary=boundary
        )
        ids = {"execution_id": str(uuid.uuid4()), "project_id": PROJECT}
        self.task = Execute.model_validate({**ids, "prompt": "p", "limits": limits, "submitted_at": b.deps.clock.now()})
        self.folder = folder
        self.turn = AgentRun(cast(Any, context), self.task, folder / "own", Activity(b.deps.clock))

    async def _busy(self, _: str) -> bool:
        return False

    async def _acquire(self, asked: ServerSpec, **__: object) -> Any:
        async def close() -> None:
            """There is no server."""

        async def stop(grace: float) -> Any:
            self.graces.append(grace)
            return SimpleNamespace(left=0)

        async def open_up() -> None:
            """Nothing is hidden."""

        server = SimpleNamespace(stop=stop, password=PASSWORD, version="1.18.33", spec=asked)
        root = self.folder / "slot"
        return SimpleNamespace(
            model_proxy=self.model_proxy,
            directory=root / "w",
            root=root,
            warm=False,
            server=server,
            close=close,
            own=self._own,
            open_up=open_up,
        )

    async def _own(self, _: Path) -> None:
        """The files stay as they are."""

    async def emit(self, draft: Draft) -> None:
        self.said.append(draft)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(preparation, "Agent", Agent)

    def make(prices: Prices | None = Prices(1, 1, 1, 1), **limits: Any) -> World:  # noqa: B008
        return World(tmp_path, bench(), limits, prices)

    return make


async def test_the_password_of_opencode_is_redacted(world: Any) -> None:
    """What the agent's shell finds in its environment does not get into the output."""
    w = world()
    await w.turn.run(w.emit, Usage())
    assert PASSWORD not in w.turn.redactor(f"OPENCODE_SERVER_PASSWORD={PASSWORD}")


@pytest.mark.parametrize("finished", [True, False])
async def test_only_an_agent_at_work_is_asked_to_stop(
    world: Any, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """One that has finished is ended at once; one that failed is aborted, and has a moment to end."""
    monkeypatch.setattr(Agent, "aborted", 0)
    monkeypatch.setattr(Agent, "ends", None if finished else AgentFailed(Reason.MODEL_ERROR, "the model is away"))
    w = world()
    with nullcontext() if finished else pytest.raises(AgentFailed):
        await w.turn.run(w.emit, Usage())
    await w.turn.kill()
    assert Agent.aborted == (0 if finished else 1)
    assert (w.graces[0] == 0.0) is finished


async def test_budget_includes_earlier_attempts(world: Any) -> None:
    """The limits hold for all attempts together, and the totals are those of all of them."""
    w = world(max_cost_usd=1)
    assert w.turn.usage == Usage()
    await w.turn.run(w.emit, USED)
    assert w.turn.usage == USED
    assert w.model_proxy._budget.tokens_left() == 250_000
    assert json.loads(w.said[-1].model_dump_json())["detail"]["requests"] == 3
    await w.turn.close()


async def test_a_budget_that_cannot_be_watched_ends_the_run_before_it_spends(world: Any) -> None:
    """A cost limit on a model whose price nobody knows: said at once, with what bounds it instead."""
    w = world(prices=None, max_cost_usd=1)
    with pytest.raises(AgentFailed, match=r"the price of .* is not known.*set limits\.max_total_tokens") as caught:
        await w.turn.run(w.emit, Usage())
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert w.said == []
    free = world(prices=None, max_total_tokens=5)
    await free.turn.run(free.emit, Usage())
    for one in (w, free):
        await one.turn.close()


async def test_no_secret_reaches_the_record_the_fact_or_an_artifact(world: Any) -> None:
    """The model repeats its key: in the result, the todo list and the conversation it is masked."""
    w = world()
    await w.turn.run(w.emit, Usage())
    assert w.turn.result == "the key is [redacted]"
    (todo,) = [draft for draft in w.said if draft.type is ChunkType.TODO]
    assert todo.detail is not None
    assert todo.detail["items"][0]["content"] == "use [redacted]"
    kept = await w.turn.store_artifacts(w.emit, 10.0, cast(Any, SimpleNamespace(held=True, wait_until_held=_yes)))
    assert {artifact.name for artifact in kept.objects} >= {"conversation.json", "workspace.tar.zst"}
    assert not [name for name, data in w.b.store.objects.items() if KEY.encode() in data]
    await w.turn.close()


async def _yes() -> bool:
    return True


async def test_no_secret_is_in_why_it_failed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Message and standard error of the agent go into the fact: without the key."""
    failure = AgentFailed(Reason.AGENT_ERROR, f"died of {KEY}", (f"debug: {KEY}", "plain"))
    monkeypatch.setattr(Agent, "ends", failure)
    w = world()
    with pytest.raises(AgentFailed) as caught:
        await w.turn.run(w.emit, Usage())
    assert (caught.value.message, caught.value.stderr_tail) == ("died of [redacted]", ("debug: [redacted]", "plain"))
    await w.turn.close()


async def test_a_finished_turn_whose_conversation_is_not_to_be_had_is_finished(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCode does not export it: the run is what it was, without that artifact."""
    monkeypatch.setattr(Agent, "deaf", True)
    w = world()
    await w.turn.run(w.emit, Usage())
    kept = await w.turn.store_artifacts(w.emit, 10.0, cast(Any, SimpleNamespace(held=True, wait_until_held=_yes)))
    assert {artifact.name for artifact in kept.objects} == {"workspace.patch", "workspace.tar.zst"}
    await w.turn.close()
