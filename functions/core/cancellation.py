"""Reliable cancellation of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_RETRY_SECONDS = 0.2


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until all have ended; ignore their exceptions.

    Cancels repeatedly if necessary: `asyncio.wait_for` of Python 3.11, used by nats-py, swallows a cancellation that
    coincides with the result (github.com/python/cpython issue 86296), and an endless task would then run on. Use it
    only for tasks without asynchronous cleanup, which a second cancellation would interrupt.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_RETRY_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
