"""The model proxy's recording: real sockets, a faulty provider, every kind of end of a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from io import BytesIO
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Limits
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import Reason
from ocf.events.optional_task_fields import Rerun
from ocf.events.redaction import MASK
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import Hooks, ModelProxy, RetryPolicy, Upstream
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import VERSION, Head
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.recording.playback import Answer, Playback
from ocf.functions.recording.recorded_calls_reader import Recording, read
from tests.support.faulty_model import Act, chat, cut, endless, faulty_model, status

KEY = "sk-planted-5f1d9c27e0ab"
REF = ExecutionRef("p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
SYSTEM = {"role": "system", "content": "You are an agent."}
TOOLS = [{"type": "function", "function": {"name": "bash"}}]


async def ask(client: httpx2.AsyncClient, *texts: str) -> httpx2.Response:
    """One call of the agent: the conversation so far."""
    said = [SYSTEM, *({"role": "user", "content": text} for text in texts)]
    return await client.post("/chat/completions", json={"model": "m", "stream": True, "messages": said, "tools": TOOLS})


class Rig:
    """A proxy that records, and its recording."""

    def __init__(self, proxy: ModelProxy, store: MemoryStore, recorder: Recorder, client: httpx2.AsyncClient) -> None:
        self.proxy, self.store, self.recorder, self.client = proxy, store, recorder, client

    async def ask(self, *texts: str) -> httpx2.Response:
        return await ask(self.client, *texts)

    async def recording(self) -> Recording:
        await self.recorder.close(5.0)
        keys = [one.key async for one in self.store.list(REF.object_key("model/"))]
        return read(BytesIO(b"".join([await self.store.get(key) for key in keys])))


Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def build(*script: Act) -> Rig:
            model = await stack.enter_async_context(faulty_model(*script))
            clock, store = SystemClock(), MemoryStore()
            upstream = Upstream(clock, retry=RetryPolicy(tries=2, base=0.01, cap=0.01), read_timeout=5.0)
            stack.push_async_callback(upstream.close)
            proxy = await ModelProxy(upstream, clock).start()
            stack.push_async_callback(proxy.close)
            headers = {"authorization": f"Bearer {proxy.token}"}
            client = await stack.enter_async_context(
                httpx2.AsyncClient(base_url=proxy.base_url, headers=headers, timeout=10)
            )
            head = Head(version=VERSION, attempt=1, key="ab" * 32, holds="full")
            recorder = Recorder(store, REF, head, PartTable(head.key, proxy.redactor), clock)
            fields: dict[str, Any] = {"provider": "local", "model": "m", "kind": "openai", "base_url": model.base_url}
            proxy.assign(ModelTarget(**fields, api_key=SecretStr(KEY)), Limits(), recorder=recorder)
            return Rig(proxy, store, recorder, client)

        yield build


async def test_what_the_agent_got_is_what_is_recorded(make: Make) -> None:
    """Two calls of a conversation: answers byte for byte, parts once, times and usage."""
    rig = await make(chat("hel", "lo", prompt=7), chat("bye"))
    first, second = await rig.ask("one"), await rig.ask("one", "two")
    found = await rig.recording()
    assert [one.answer for one in found.calls] == [first.text, second.text]
    assert [part.kind for part in found.request_of(found.calls[1])] == ["system", "tools", "message", "message"]
    assert len(found.parts) == 4
    call = found.calls[0]
    assert (call.outcome, call.status, call.usage.input_tokens, call.tries) == ("ok", 200, 7, 1)
    assert call.times[-1][1] == len(first.content)
    assert not call.redacted


async def test_a_secret_that_a_provider_returns_is_not_recorded_and_the_call_is_marked(make: Make) -> None:
    """Also one that comes in pieces."""
    rig = await make(chat("the key is ", KEY[:9], KEY[9:], ", keep it"))
    answer = await rig.ask("one")
    (call,) = (await rig.recording()).calls
    assert call.redacted
    assert call.answer == answer.text
    assert MASK in call.answer
    assert not [key for key, data in rig.store.objects.items() if KEY.encode() in data]


async def test_every_end_of_a_call_is_recorded(make: Make) -> None:
    """A client error that is passed on, an answer that breaks off, and the failure that ends the execution."""
    rig = await make(status(400, '{"error":{"message":"too long"}}'), cut("hal"), status(401))
    assert (await rig.ask("one")).status_code == 400
    with pytest.raises(httpx2.HTTPError):
        await rig.ask("two")
    assert (await rig.ask("three")).status_code == 403
    passed, broken, failed = (await rig.recording()).calls
    assert (passed.outcome, passed.status) == ("passed", 400)
    assert "too long" in passed.answer
    assert (broken.outcome, broken.broken) == ("cut", True)
    assert "hal" in broken.answer
    assert (failed.outcome, failed.reason) == ("failed", "model_auth")
    assert failed.message == "the model provider refused the key (status 401)"


class Again:
    """A proxy whose only source is a recording: its upstream leads nowhere."""

    def __init__(self, proxy: ModelProxy, player: Player, client: httpx2.AsyncClient) -> None:
        self.proxy, self.player, self.client = proxy, player, client
        self.over: list[Answer] = []

    async def ask(self, *texts: str) -> httpx2.Response:
        return await ask(self.client, *texts)


@asynccontextmanager
async def played(recording: Recording, *, complete: bool = True, now: str = "", **asked: Any) -> AsyncIterator[Again]:
    clock = SystemClock()
    upstream = Upstream(clock, read_timeout=5.0)
    proxy = await ModelProxy(upstream, clock).start()
    table = PartTable(recording.head.key, proxy.redactor)
    playback = Playback(recording, Rerun(of=REF.execution, **asked), table, complete=complete)
    player = Player(playback, [(MOVED, now)] if now else [], complete=complete)
    headers = {"authorization": f"Bearer {proxy.token}"}
    async with httpx2.AsyncClient(base_url=proxy.base_url, headers=headers, timeout=10) as client:
        again = Again(proxy, player, client)
        target = ModelTarget("local", "m", "openai", "http://recording.invalid/v1")
        proxy.assign(target, Limits(), Hooks(on_over=again.over.append), player=player)
        try:
            yield again
        finally:
            await proxy.close()
            await upstream.close()


MOVED = "/state/worker-17/slots/0a1b2c/workspace"


async def test_the_same_requests_get_the_same_answers_without_a_provider(make: Make) -> None:
    """Byte for byte, at no cost; a request beyond them ends the execution as diverged."""
    rig = await make(chat("hel", "lo"), status(400, '{"error":{"message":"too long"}}'), chat("bye"))
    was = [await rig.ask(*"abc"[:length]) for length in (1, 2, 3)]
    async with played(await rig.recording()) as again:
        now = [await again.ask(*"abc"[:length]) for length in (1, 2, 3)]
        assert [(one.status_code, one.content) for one in now] == [(one.status_code, one.content) for one in was]
        assert again.player.playback.result.divergences == []
        assert (again.proxy.usage.requests, again.proxy.usage.cost_usd) == (0, 0)
        assert (await again.ask("a", "b", "c", "d")).status_code == 403
        assert again.proxy.failure is not None
        assert again.proxy.failure.reason is Reason.DIVERGED


async def test_a_path_of_the_recording_becomes_that_of_the_rerun_also_in_pieces(make: Make) -> None:
    """A model gives a path word by word; the agent must not write where the original was."""
    pieces = [f"{MOVED}/made.py"[at : at + 5] for at in range(0, len(MOVED) + 8, 5)]
    rig = await make(chat("see ", *pieces, " there"))
    await rig.ask("one")
    async with played(await rig.recording(), now="/other/place") as again:
        answer = (await again.ask("one")).text
    lines = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for line in lines for choice in line["choices"])
    assert text == "see /other/place/made.py there"


async def test_a_failure_and_a_broken_answer_come_again(make: Make) -> None:
    """The agent sees the same break, and the execution ends for the same reason."""
    rig = await make(cut("hal"), status(401))
    with pytest.raises(httpx2.HTTPError):
        await rig.ask("one")
    await rig.ask("one", "two")
    async with played(await rig.recording(), complete=False) as again:
        with pytest.raises(httpx2.HTTPError):
            await again.ask("one")
        assert (await again.ask("one", "two")).status_code == 403
        assert again.proxy.failure is not None
        assert again.proxy.failure.reason is Reason.MODEL_AUTH


async def test_the_end_of_a_cancelled_original_comes_at_the_same_call(make: Make) -> None:
    """The call in whose middle it was cancelled stays open; once all others are played, the rerun is over."""
    rig = await make(chat("hello"), endless())
    await rig.ask("one")
    asking = asyncio.create_task(rig.ask("one", "two"))
    while rig.proxy.in_flight == 0:
        await asyncio.sleep(0)
    while not (rig.proxy.in_flight and rig.recorder.held):
        await asyncio.sleep(0)
    rig.proxy.refuse("cancelled")
    with suppress(httpx2.HTTPError):
        await asking
    recording = await rig.recording()
    assert [one.outcome for one in recording.calls] == ["ok", "refused"]
    async with played(recording, complete=False) as again:
        await again.ask("one")
        assert again.over == []
        open_call = asyncio.create_task(again.ask("one", "two"))
        while not again.over:
            await asyncio.sleep(0)
        assert again.over[0].end == "recording"
        again.proxy.refuse("the execution has ended")
        await again.proxy.close()
        with suppress(httpx2.HTTPError):
            await open_call
