"""Connections that nobody has authenticated: how many a server keeps, and for how long, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from ocf.functions.runtime import connection_limits
from ocf.functions.runtime.connection_limits import Connections

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def _slow(_: Request) -> PlainTextResponse:
    await asyncio.sleep(1)
    return PlainTextResponse("slow")


async def _endless(_: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65_536)
            await asyncio.sleep(0)  # who sends to nobody never waits

    return StreamingResponse(pieces())


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


@asynccontextmanager
async def serving(kept: Connections) -> AsyncIterator[int]:
    """A server that keeps connections by `kept`; its port."""
    routes = [
        Route("/", _hello),
        Route("/slow", _slow),
        Route("/endless", _endless),
        WebSocketRoute("/ws", _echo),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    connection_limits.apply_limits(config, kept)
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def opened(port: int, said: bytes = b"") -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    return reader, writer


async def answer(port: int, path: str = "/") -> str:
    reader, writer = await opened(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    try:
        async with asyncio.timeout(10):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def is_closed(stream: Stream) -> bool:
    """Whether the server has closed it, without an answer."""
    try:
        return await stream[0].read() == b""
    except ConnectionError:
        return True


@pytest.fixture
async def streams() -> AsyncIterator[list[Stream]]:
    """Closed at the end."""
    made: list[Stream] = []
    yield made
    for _, writer in made:
        writer.close()
    for _, writer in made:
        try:
            await writer.wait_closed()
        except ConnectionError:
            continue


async def test_half_open_connections_do_not_keep_anybody_out(streams: list[Stream]) -> None:
    """Many more than are kept: the oldest go, and whoever sends a request is answered, a WebSocket too."""
    kept = Connections(total=60, waiting=40, each=20)
    async with serving(kept) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
            slow = asyncio.ensure_future(answer(port, "/slow"))
            for number in range(300):
                streams.append(await opened(port, b"GET / HTTP/1.1\r\nX: " if number % 2 else b""))
            assert "hello" in await answer(port)
            assert "slow" in await slow
            await socket.send("still here")
            assert await socket.recv() == "still here"
            assert kept.waiting <= 20
            assert len(kept) <= 21 + 1
        async with asyncio.timeout(10):
            assert all([await is_closed(stream) for stream in streams[:250]])


async def test_a_head_that_does_not_end_is_given_up(streams: list[Stream]) -> None:
    """Neither a byte now and then nor a first good request buys more time."""
    async with serving(Connections(total=60, head_seconds=0.5)) as port:
        silent, first = await opened(port), await opened(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /")
        streams += [silent, first]
        dripping = await opened(port, b"GET / HTTP/1.1\r\n")
        streams.append(dripping)

        async def drip() -> None:
            while True:
                dripping[1].write(b"X-A: b\r\n")
                await asyncio.sleep(0.05)

        dripper = asyncio.ensure_future(drip())
        async with asyncio.timeout(10):
            assert await is_closed(silent)
            assert await is_closed(dripping)
            assert b"hello" in await first[0].read()
        dripper.cancel()
        await asyncio.gather(dripper, return_exceptions=True)
        # A request that takes longer than its head may is no half-open connection.
        assert "slow" in await answer(port, "/slow")


async def test_an_answer_that_nobody_reads_is_given_up(streams: list[Stream]) -> None:
    """It would hold its connection and what is buffered for ever."""
    kept = Connections(total=60, write_seconds=0.5)
    async with serving(kept) as port:
        streams.append(await opened(port, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"))
        async with asyncio.timeout(10):
            while not len(kept):
                await asyncio.sleep(0.01)
            while len(kept):
                await asyncio.sleep(0.01)


async def test_when_all_are_busy_a_new_one_is_refused(streams: list[Stream]) -> None:
    """What runs is not cut off for what comes."""
    async with serving(Connections(total=3)) as port:
        sockets = [await connect(f"ws://127.0.0.1:{port}/ws") for _ in range(3)]
        late = await opened(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        streams.append(late)
        async with asyncio.timeout(10):
            assert await is_closed(late)
        for socket in sockets:
            await socket.send("here")
            assert await socket.recv() == "here"
            await socket.close()
        async with asyncio.timeout(10):
            while "hello" not in await answer(port):
                await asyncio.sleep(0.01)
