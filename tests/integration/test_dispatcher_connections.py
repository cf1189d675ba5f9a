"""A machine that is gone without a word: the dispatcher's kernel asks after it, and gives it up."""

from __future__ import annotations

import asyncio
import socket

import httpx2

from ocf.functions.dispatcher.http_target import connections


async def test_a_silent_connection_is_asked_after() -> None:
    """While a function works, and says nothing, its connection has keep-alive on, and ends 30 s after the last sign."""
    seen: list[tuple[int, int]] = []
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def note(response: httpx2.Response) -> None:
        used = response.extensions["network_stream"].get_extra_info("socket")
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        quiet, every, questions = (used.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        seen.append((used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), quiet + every * questions))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx2.AsyncClient(transport=connections(), event_hooks={"response": [note]}) as http:
        await http.post(f"http://127.0.0.1:{port}/", timeout=5)
        await http.aclose()
        await asyncio.wait_for(ended.wait(), 5)
    assert seen == [(1, 30)]
