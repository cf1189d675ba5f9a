"""A model that does what its prompt says: `[[script]]` and a JSON list of steps, one per answer.

A step is `{"tool", "args"}`, `{"tools": [those]}`, `{"say"}`, with `"finish"` for another reason than the usual one, or
`{"wait": true}`, an answer that begins and never ends. `{dir}` in it is the working directory that the agent's system
prompt names. `"pace"` are the seconds between two pieces of an answer.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

_MARK = "[[script]] "
_DIRECTORY = re.compile(r"[Ww]orking directory: ([^\s\\\"]+)")


def prompt(*steps: dict[str, Any]) -> str:
    """The prompt of a script."""
    return _MARK + json.dumps(steps)


class StepModel:
    """The server. `waiting` is set once an answer is on its way that never ends."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests = 0
        self.waiting = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            self.requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            step = _step(body)
            for event in _events(step):
                writer.write(f"data: {json.dumps(event)}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(step.get("pace", 0.002))
            if step.get("wait"):
                self.waiting.set()
                await reader.read()
            writer.write(b"data: [DONE]\n\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the agent was ended
        finally:
            writer.close()


def _step(body: dict[str, Any]) -> dict[str, Any]:
    system = json.dumps([one for one in body["messages"] if one["role"] == "system"])
    if "title generator" in system:
        return {"say": "A title"}
    # OpenCode gives the images of tool results as messages of the user.
    texts = [_text(one) if one["role"] == "user" else "" for one in body["messages"]]
    last = max((at for at, text in enumerate(texts) if _MARK in text), default=0)
    directory = _DIRECTORY.search(system)
    script = (texts[last].partition(_MARK)[2] or "[]").replace("{dir}", directory[1] if directory else ".")
    steps = json.JSONDecoder().raw_decode(script)[0]
    done = sum(one["role"] == "assistant" for one in body["messages"][last:])
    return dict(steps[done]) if done < len(steps) else {"say": "Done."}


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _events(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """In pieces of five characters: a path never comes whole."""
    if text := step.get("say") or ("I begin, and " if step.get("wait") else ""):
        for at in range(0, len(text), 5):
            yield _event({"content": text[at : at + 5]})
    tools = step.get("tools") or ([step] if "tool" in step else [])
    for number, each in enumerate(tools):
        arguments = json.dumps(each["args"])
        call = {"index": number, "id": f"call_{number}_{zlib.crc32(arguments.encode()):x}", "type": "function"}
        yield _event({"tool_calls": [{**call, "function": {"name": each["tool"], "arguments": ""}}]})
        for at in range(0, len(arguments), 5):
            yield _event({"tool_calls": [{"index": number, "function": {"arguments": arguments[at : at + 5]}}]})
    if not step.get("wait"):
        yield _event({}, step.get("finish") or ("tool_calls" if tools else "stop"))
        usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
        yield {**_event({}), "choices": [], "usage": usage}


def _event(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@asynccontextmanager
async def step_model() -> AsyncIterator[StepModel]:
    """The server on a free port, until the block ends."""
    model = StepModel()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0, limit=2**24)
    model.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield model
    finally:
        server.close()
