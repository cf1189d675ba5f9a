"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_AGAIN = 0.2


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel loops, and wait until they have ended; what they raised is theirs.

    Only for tasks that put nothing away when they are cancelled: they may be told again while they are at it.

    More than once, if need be: `asyncio.wait_for` of Python 3.11, which nats-py waits with, swallows a cancellation
    that comes in the moment of the answer (github.com/python/cpython issue 86296). A task that runs for ever then does.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
