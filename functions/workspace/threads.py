"""Cancellable file work in threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from ocf.functions.workspace.safe_walk import Stopped

T = TypeVar("T")


async def in_thread(call: Callable[[threading.Event], T]) -> T:
    """Run `call` in a thread; its event is set on cancellation, and the caller then waits until it has stopped.

    So nothing writes after the cancellation, and the files can be removed.
    """
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(call, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):  # cancelled again: the thread must still stop first
                await asyncio.wait({running})
        if (error := running.exception()) is not None and not isinstance(error, Stopped):
            raise error from None
        raise
