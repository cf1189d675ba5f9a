"""uvicorn, until SIGTERM or SIGINT; what comes after is the caller's."""

from __future__ import annotations

import gc
import signal
from types import FrameType

import uvicorn


async def serve(config: uvicorn.Config) -> None:
    """Serve, and return when told to stop.

    uvicorn raises the signal again once it has stopped, for whoever handled it before; by default that would end the
    process on the spot, before runs are handed on and connections closed. A handler and not SIG_IGN: children would
    inherit that.
    """
    server = uvicorn.Server(config)

    def heard(_number: int, _frame: FrameType | None) -> None:
        # Before uvicorn listens for them, and after it has acted on them.
        server.should_exit = True

    # What start-up made lives as long as the process. Without this a full collection goes through all of it, which
    # stops every answer for 80 ms (measured for the gateway's process).
    gc.collect()
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heard)
    await server.serve()
