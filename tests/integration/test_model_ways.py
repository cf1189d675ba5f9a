"""The eighteen ways of docs/reference/models.md in which a model misbehaves, each with the real OpenCode."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.faulty_model import CHUNKED, Act, Exchange, chat, cut, delta, events, silent, slow, status, whole
from tests.support.faulty_model import faulty_model as serving
from tests.support.offline import OPENCODE
from tests.support.stack import Project, running_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

PAGE = Path(__file__).parents[2] / "docs/reference/models.md"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|[^|]*\| `(\w+)`(?:, `(\w+)`)? \| (\d+) \| ([^|]*) \|$", re.MULTILINE)
#: By way: state, reason, requests at most, a part of the message.
ROWS = {way: (state, reason or None, int(most), said.strip()) for way, state, reason, most, said in
        _ROW.findall(PAGE.read_text())}  # fmt: skip


def calls(name: str, arguments: str) -> Act:
    """A tool call, the same each time."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    turn: dict[str, Any] = {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    return events(turn, end, "[DONE]")


async def garbage(exchange: Exchange) -> None:
    """Bytes that are no event."""
    await exchange.head(200, "text/event-stream", CHUNKED)
    exchange.writer.write(b"8\r\n\x00\xff\xfe\x80\n\n\xc3\x28\r\n0\r\n\r\n")
    await exchange.writer.drain()


LONG = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
WAYS: dict[str, Act] = {
    "bad-json": whole(b'{"choices": [{"message": '),
    "cut": cut("half an ans"),
    "400": status(400, '{"error":{"message":"what is this"}}'),
    "401": status(401),
    "402": status(402),
    "404": status(404),
    "429": status(429),
    "500": status(500),
    "html": whole(b"<html>Welcome</html>", "text/html"),
    "empty-choices": whole(b'{"choices": []}'),
    "empty-arguments": calls("bash", ""),
    "wrong-arguments": calls("bash", '{"komand": 1}'),
    "unknown-tool": calls("teleport", "{}"),
    "no-usage": events(delta("Done."), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]"),
    "length": events(delta("And then"), LONG, "[DONE]"),
    "garbage": garbage,
    "silence": silent,
    "comments": slow(10_000, 0.2),
}


async def acted(exchange: Exchange) -> None:
    """The prompt names the way. A request without tools is for a title, which is nobody's concern here."""
    found = re.search(r"way-([a-z0-9-]+)", str(exchange.body["messages"]))
    good = found is None or not exchange.body.get("tools")
    await (chat("A title") if good or found is None else WAYS[found[1]])(exchange)


@dataclass
class World:
    """A stack whose model misbehaves, and what that model was asked."""

    project: Project
    requests: list[Exchange]

    def asked(self, way: str) -> int:
        """Requests of the agent's work."""
        return sum(f"way-{way}" in str(one.body["messages"]) for one in self.requests if one.body.get("tools"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(acted) as model:
        environ = {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "local/m",
            "OCF_MODEL_ENDPOINT": model.base_url,
            "OPENCODE_API_KEY": "sk-0123456789",
            "MODEL_SILENCE_SECONDS": "3",
            "WARM_SLOTS": "1",
        }
        with running_stack(tmp_path_factory.mktemp("ways"), **environ) as stack:
            async with stack.project() as project:
                yield World(project, model.requests)


async def test_the_page_has_every_way() -> None:
    """And the test every row."""
    assert list(ROWS) == list(WAYS)


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_way(way: str, world: World) -> None:
    """The run ends as the row says, after as many requests, with a message that tells why."""
    limits = {"silence_seconds": 30} if way == "comments" else {}
    record = await world.project.ended(await world.project.submit(f"way-{way}", limits=limits), 300)
    state, reason, most, said = ROWS[way]
    assert (record.state, record.reason) == (state, reason), record
    assert said in (record.message or ""), record.message
    assert 1 <= world.asked(way) <= most
    if way == "no-usage":
        assert record.usage.input_tokens > 0
