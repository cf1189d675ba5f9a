"""The model's provider fails in every way: each execution ends in the right state, for the right reason, soon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from ocf.events.lifecycle import Reason, State
from tests.support.faulty_model import Act, Exchange, hang_up, silent, status
from tests.support.faulty_model import faulty_model as serving
from tests.support.stack import Project, Stack, running_stack

WITHIN = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


#: Spaces before the answer: the slow one sends them one by one.
PADDING = 24
ANSWER = json.dumps({
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {},
}).encode()  # fmt: skip


async def begun(exchange: Exchange) -> None:
    await exchange.head(200, "application/json", f"content-length: {len(ANSWER) + PADDING}")


async def good(exchange: Exchange) -> None:
    """A whole answer."""
    await begun(exchange)
    exchange.writer.write(b" " * PADDING + ANSWER)


async def slow(exchange: Exchange) -> None:
    """Twelve seconds for an answer, a byte now and then: nothing is wrong with that."""
    await begun(exchange)
    for _ in range(PADDING):
        exchange.writer.write(b" ")
        await exchange.writer.drain()
        await asyncio.sleep(0.5)
    exchange.writer.write(ANSWER)


async def half(exchange: Exchange) -> None:
    """Half an answer, and then no more."""
    await begun(exchange)
    exchange.writer.write(ANSWER[:20])
    await silent(exchange)


async def cut(exchange: Exchange) -> None:
    """Half an answer, and the connection breaks."""
    await begun(exchange)
    exchange.writer.write(ANSWER[:20])
    await exchange.writer.drain()
    exchange.writer.transport.abort()


ACTS: dict[str, Act] = {
    "good": good,
    "down": hang_up,
    "failing": status(503),
    "refusing": status(401),
    "silent": silent,
    "half": half,
    "cut": cut,
    "slow": slow,
}


async def acted(exchange: Exchange) -> None:
    """The first word of what is asked says what happens."""
    await ACTS[exchange.body["messages"][-1]["content"].split()[0]](exchange)


@dataclass
class World:
    """A stack whose model is the faulty one."""

    stack: Stack
    project: Project


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(acted) as model:
        endpoint = {"OCF_MODEL_ENDPOINT": model.base_url, "OPENCODE_API_KEY": "sk-0123456789"}
        with running_stack(tmp_path_factory.mktemp("faults"), **endpoint) as stack:
            async with stack.project() as project:
                yield World(stack, project)


def asks(word: str) -> list[dict[str, Any]]:
    return [{"text": "I ask. "}, {"model": {"prompt": word}}]


#: What the provider does, the limits, and how it ends: state, reason, words of the message.
PROVIDERS = (
    ("good", {}, State.COMPLETED, None, ""),
    ("slow", {"silence_seconds": 9}, State.COMPLETED, None, ""),
    ("down", {}, State.FAILED, Reason.MODEL_ERROR, "cannot be reached"),
    ("failing", {}, State.FAILED, Reason.MODEL_ERROR, "503"),
    ("refusing", {}, State.FAILED, Reason.MODEL_AUTH, "401"),
    ("silent", {"silence_seconds": 5}, State.FAILED, Reason.STALLED, "5 s"),
    ("half", {"silence_seconds": 5}, State.FAILED, Reason.STALLED, "5 s"),
    ("silent", {"timeout_seconds": 5}, State.TIMED_OUT, None, ""),
    ("cut", {}, State.FAILED, Reason.MODEL_ERROR, ""),
)


async def test_a_provider_that_fails(world: World) -> None:
    """Down, failing, refusing the key, silent from the start or in mid-answer, cut off: all at once, and the reason of
    each says which. One that is only slow is left alone. Nothing of any of them runs on."""

    async def ends(act: str, limits: dict[str, int], state: State, reason: Reason | None, said: str) -> None:
        execution = await world.project.submit(asks(act), limits=limits)
        record = await world.project.ended(execution, WITHIN)
        assert (record.state, record.reason) == (state, reason), (act, record.state, record.reason, record.message)
        assert said in (record.message or ""), (act, record.message)

    await asyncio.gather(*(ends(*row) for row in PROVIDERS))
    assert world.stack.children() == []
