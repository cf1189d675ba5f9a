"""A load balancer: one address before several gateways, another one for each call.

With `OCF_TEST_GATEWAYS=2` (`make test-gateways`) the gateways of `gateway_server.serving` and of `stack.running_stack`
are two behind it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

#: Gateways of a test.
GATEWAYS = int(os.environ.get("OCF_TEST_GATEWAYS", "1"))
_HEAD = b"\r\n\r\n"
_PIECE = 65_536


@asynccontextmanager
async def relay(ports: Sequence[int], port: int = 0) -> AsyncIterator[int]:
    """Yield the port of a relay, `port` or a free one, to these ports of this machine in turn.

    It asks the gateway to close the connection after each answer, so that the next call reaches the next gateway.
    """
    turns = itertools.cycle(ports)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        open_ = [writer]
        try:
            # Cancelled only at the end; Python 3.11 reports a handler of a connection that ends so.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = _closing(await reader.readuntil(_HEAD))
                inner, outer = await asyncio.open_connection("127.0.0.1", next(turns))
                open_.append(outer)
                outer.write(head)
                there = asyncio.create_task(_pipe(reader, outer))
                try:
                    await _pipe(inner, writer)
                finally:
                    there.cancel()
                    await asyncio.wait([there])
        finally:
            for one in open_:
                one.transport.abort() if task.cancelling() else one.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=_PIECE * 4)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _closing(head: bytes) -> bytes:
    """The head of a request that asks for one answer only, unless it becomes a WebSocket."""
    if b"\nupgrade:" in head.lower():
        return head
    first, *lines = head.split(b"\r\n")
    return b"\r\n".join(
        [first, b"Connection: close", *(line for line in lines if not line.lower().startswith(b"connection:"))]
    )


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@contextmanager
def relay_thread(ports: Sequence[int], port: int) -> Iterator[None]:
    """As `relay`, in a thread of its own, for tests without an event loop of their own."""
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever, daemon=True)
    running.start()
    made = relay(ports, port)
    try:
        asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(made.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        running.join(10)
        loop.close()
