"""A very small HTTP/1.1 server on asyncio: JSON answers, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

STATUS = {200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 503: "Unavailable"}


@dataclass
class Request:
    """One request; `body` is its JSON, `directory` and `page` (limit, before) the query's."""

    method: str
    path: str
    directory: str
    body: Any
    page: tuple[int, str] = (0, "")


class Stream:
    """An open event stream; its queue holds events, None closes it as if the connection broke."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()


@dataclass
class Page:
    """A part of a list; `before` is where the next older one ends."""

    items: list[Any]
    before: str


Answer = tuple[int, Any] | Stream | Page
Handler = Callable[[Request], Awaitable[Answer]]


async def serve(port: int, handler: Handler, authorization: str | None) -> asyncio.Server:
    """Listen on loopback; a wrong `Authorization` header gets 401."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await _one(reader, writer, handler, authorization):
                continue
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", port)


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, authorization: str | None
) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    if authorization is not None and headers.get("authorization") != authorization:
        _answer(writer, 401, {"message": "unauthorized"})
        return True
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    page = int(query.get("limit", "0")), query.get("before", "")
    body = json.loads(raw) if raw else None
    request = Request(method, url.path, query.get("directory", ""), body, page)
    answer = await handler(request)
    if isinstance(answer, Stream):
        await _events(reader, writer, answer)
        return False
    if isinstance(answer, Page):
        _answer(writer, 200, answer.items, *([f"x-next-cursor: {answer.before}"] if answer.before else []))
    else:
        _answer(writer, *answer)
    await writer.drain()
    return True


def _answer(writer: asyncio.StreamWriter, status: int, body: Any, *headers: str) -> None:
    data = b"" if status == 204 else json.dumps(body).encode()
    lines = (f"HTTP/1.1 {status} {STATUS[status]}", "content-type: application/json", f"content-length: {len(data)}")
    writer.write("\r\n".join((*lines, *headers)).encode() + b"\r\n\r\n" + data)


async def _events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    gone = asyncio.create_task(reader.read(1))
    try:
        while not gone.done():
            get = asyncio.create_task(stream.queue.get())
            await asyncio.wait({get, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                return
            event = get.result()
            if event is None:
                # No closing chunk: what a broken connection looks like.
                transport = writer.transport
                transport.abort()
                return
            data = f"data: {json.dumps(event)}\n\n".encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
    finally:
        gone.cancel()
