"""A model provider that misbehaves on command, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Act = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request and the pen to answer it with."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    async def head(self, status: int, content_type: str, *extra: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "connection: close", *extra, "", ""]
        self.writer.write("\r\n".join(lines).encode())
        await self.writer.drain()

    async def event(self, data: dict[str, Any] | str, name: str | None = None) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        piece = ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()
        self.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


CHUNKED = "transfer-encoding: chunked"


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], "usage": None}


def chat(*words: str, prompt: int = 10, completion: int | None = None, pause: float = 0.0) -> Act:
    """A good streamed chat completion."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        for word in words:
            await exchange.event(delta(word))
            if pause:
                await asyncio.sleep(pause)
        await exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if exchange.body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": prompt, "completion_tokens": len(words) if completion is None else completion}
            await exchange.event({"choices": [], "usage": usage})
        await exchange.event("[DONE]")
        await exchange.end()

    return act


def status(code: int, body: str = '{"error":{"message":"no"}}', *headers: str) -> Act:
    """An error, with a body."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(code, "application/json", f"content-length: {len(body.encode())}", *headers)
        exchange.writer.write(body.encode())

    return act


def cut(*words: str) -> Act:
    """A stream that breaks off."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        for word in words:
            await exchange.event(delta(word))
        exchange.writer.transport.abort()

    return act


def endless(pause: float = 0.005) -> Act:
    """A stream that never ends by itself."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        while True:
            await exchange.event(delta("word "))
            await asyncio.sleep(pause)

    return act


def whole(body: bytes, content_type: str = "application/json", *headers: str) -> Act:
    """A 200 with a body of any kind."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, content_type, f"content-length: {len(body)}", *headers)
        exchange.writer.write(body)
        await exchange.writer.drain()

    return act


def events(*sent: dict[str, Any] | str) -> Act:
    """A stream of these events, whatever they say."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        for one in sent:
            await exchange.event(one)
        await exchange.end()

    return act


def slow(comments: int, pause: float, *words: str) -> Act:
    """A model that thinks: nothing but comments for `comments * pause` seconds, then an answer."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        for _ in range(comments):
            await asyncio.sleep(pause)
            exchange.writer.write(b"8\r\n: ping\n\n\r\n")
            await exchange.writer.drain()
        for word in words:
            await exchange.event(delta(word))
        await exchange.event("[DONE]")
        await exchange.end()

    return act


async def silent(exchange: Exchange) -> None:
    """Accepts and says nothing."""
    await asyncio.sleep(3600)


async def hang_up(exchange: Exchange) -> None:
    """Closes without an answer."""
    exchange.writer.transport.abort()


@dataclass
class FaultyModel:
    """Plays `script`, one act a request; the last one again and again."""

    script: list[Act]
    requests: list[Exchange] = field(default_factory=list)
    #: Set when a client has closed a connection while it was being answered.
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # somebody who tries ports: other tests run beside this one
            return
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        exchange = Exchange(head[0].split()[1], headers, body, writer)
        self.requests.append(exchange)
        act = asyncio.ensure_future(self.script[min(len(self.requests), len(self.script)) - 1](exchange))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({act, gone}, return_when=asyncio.FIRST_COMPLETED)
        # Whoever notices first: the reader that sees the end, or the writer that nobody listens to.
        if gone.done() or (act.done() and isinstance(act.exception(), ConnectionError)):
            self.hung_up.set()
        for task in (act, gone):
            task.cancel()
        results = await asyncio.gather(act, gone, return_exceptions=True)
        writer.close()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                raise result


@asynccontextmanager
async def faulty_model(*script: Act) -> AsyncIterator[FaultyModel]:
    """Serve `script` on a free loopback port."""
    model = FaultyModel(list(script))
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    model.port = server.sockets[0].getsockname()[1]
    try:
        yield model
    finally:
        server.close()
        for exchange in model.requests:
            exchange.writer.transport.abort()
