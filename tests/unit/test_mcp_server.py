"""`watch` of `ocf mcp`: calls that go on from each `next` lose nothing of the output, however long it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ocf.cli import mcp_server
from ocf.cli.mcp_server import Tools
from ocf.events.client.gateway import Address

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
CUT = "\n[cut: 60000 characters are shown; the REST API and `ocf` have all of it]\n"


class FakeGateway:
    """A gateway with one ended execution, whose output is these texts."""

    def __init__(self, texts: list[str]) -> None:
        self._chunks = [{"seq": at + 1, "type": "text", "data": text} for at, text in enumerate(texts)]

    async def watch(self, _: str, start: int) -> AsyncGenerator[dict[str, Any], None]:
        for chunk in self._chunks[start - 1 :]:
            yield chunk

    async def call(self, *_: str) -> dict[str, Any]:
        return {"status": "completed"}


async def watched(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> list[str]:
    """The output of each call of `watch`, up to the end."""

    @asynccontextmanager
    async def connect(*_: Any) -> AsyncIterator[FakeGateway]:
        yield FakeGateway(texts)

    monkeypatch.setattr(mcp_server, "connect", connect)
    tools, outputs, start = Tools(lambda: Address("http://h")), list[str](), 1
    for _ in range(10):
        answer = await tools.watch(ID, start)
        outputs.append(answer["output"])
        if answer["ended"]:
            return outputs
        assert answer["next"] > start
        start = answer["next"]
    raise AssertionError("it does not end")


async def test_what_does_not_fit_is_in_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that would be cut waits for the next call, whole."""
    texts = ["a" * 59_990, "b" * 500, "c" * 10]
    assert await watched(monkeypatch, texts) == [texts[0], texts[1] + texts[2]]


@pytest.mark.parametrize("before", [[], ["a"]])
async def test_a_chunk_that_fits_in_no_answer_says_that_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    """It is alone in its answer; what follows is given."""
    texts = [*before, "b" * 60_001, "c" * 60_000]
    assert await watched(monkeypatch, texts) == [*before, "b" * 60_000 + CUT, "c" * 60_000]
