"""uvicorn server that runs until SIGTERM or SIGINT, and then returns to the caller."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from ocf.functions.runtime import connection_limits
from ocf.functions.workers.parent_channel import Link


async def serve(config: uvicorn.Config, link: Link | None = None, on_stop: Callable[[], None] = lambda: None) -> float:
    """Serve until a stop signal, and until all requests are answered; return the seconds since the signal.

    `on_stop` is called at the signal.

    With a `link` the server does not listen: the parent passes connections to it, one for each request.

    After its shutdown uvicorn raises the signal again for the previous handler. The default handler would end the
    process at once, before executions are released and connections closed, so a handler is installed. SIG_IGN would be
    inherited by children.
    """
    server = _Server(config, link, on_stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Applies before uvicorn installs its own handlers and after it restores the previous ones.
        signal.signal(number, server.handle_exit)
    if link is None:
        connection_limits.apply_limits(config)
    else:
        config.headers.append(("connection", "close"))
    await server.serve(sockets=None if link is None else [])
    return time.monotonic() - server.stopped_at if server.stopped_at else 0.0


def freeze_objects() -> None:
    """Exclude the objects of the start-up from garbage collection: they live as long as the process.

    A collection of them would block all responses for 80 ms (measured for the gateway's process).
    """
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """uvicorn's server with the time of the stop signal, and with connections accepted by the parent."""

    stopped_at = 0.0

    def __init__(self, config: uvicorn.Config, link: Link | None, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._link = link
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.stopped_at:
            self._loop.call_soon_threadsafe(self._on_stop)
        self.stopped_at = self.stopped_at or time.monotonic()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._link is not None:
            self._link.serve(self._serve_connection)

    async def _serve_connection(self, connection: socket.socket, closed: Callable[[], None]) -> asyncio.Transport:
        protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )  # type: ignore[call-arg]
        lost = protocol.connection_lost

        def connection_lost(error: Exception | None) -> None:
            lost(error)
            closed()

        protocol.connection_lost = connection_lost  # type: ignore[assignment, method-assign]
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
        return transport
