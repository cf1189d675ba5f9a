"""uvicorn, until SIGTERM or SIGINT; what comes after is the caller's."""

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
from ocf.functions.workers.parent_link import Link


async def serve(config: uvicorn.Config, link: Link | None = None) -> float:
    """Serve until stopped_at to stop and all requests are answered; returns how many seconds ago it was stopped_at.

    With a `link` it does not listen: its parent hands connections to it, one for each request.

    uvicorn raises the signal again once it has stopped, for whoever handled it before; by default that would end the
    process on the spot, before runs are handed on and connections closed. A handler and not SIG_IGN: children would
    inherit that.
    """
    server = _Server(config, link)
    # What start-up made lives as long as the process. Without this a full collection goes through all of it, which
    # stops every answer for 80 ms (measured for the gateway's process).
    gc.collect()
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Before uvicorn listens for them, and after it has acted on them.
        signal.signal(number, server.handle_exit)
    if link is None:
        connection_limits.apply_limits(config)
    else:
        config.headers.append(("connection", "close"))
    await server.serve(sockets=None if link is None else [])
    return time.monotonic() - server.stopped_at if server.stopped_at else 0.0


class _Server(uvicorn.Server):
    """uvicorn, when it was stopped_at to stop, and connections that somebody else has accepted."""

    stopped_at = 0.0

    def __init__(self, config: uvicorn.Config, link: Link | None) -> None:
        super().__init__(config)
        self._link = link

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
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
