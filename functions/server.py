"""uvicorn, until SIGTERM or SIGINT; what comes after is the caller's."""

from __future__ import annotations

import gc
import signal
import time
from types import FrameType

import uvicorn


async def serve(config: uvicorn.Config) -> float:
    """Serve until told to stop and all requests are answered; returns how many seconds ago it was told.

    uvicorn raises the signal again once it has stopped, for whoever handled it before; by default that would end the
    process on the spot, before runs are handed on and connections closed. A handler and not SIG_IGN: children would
    inherit that.
    """
    server = _Server(config)
    # What start-up made lives as long as the process. Without this a full collection goes through all of it, which
    # stops every answer for 80 ms (measured for the gateway's process).
    gc.collect()
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Before uvicorn listens for them, and after it has acted on them.
        signal.signal(number, server.handle_exit)
    await server.serve()
    return time.monotonic() - server.told if server.told else 0.0


class _Server(uvicorn.Server):
    """uvicorn, and when it was told to stop."""

    told = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.told = self.told or time.monotonic()
        super().handle_exit(sig, frame)
