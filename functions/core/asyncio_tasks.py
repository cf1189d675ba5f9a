"""Reliable cancellation of tasks, and tasks that run together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

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


async def run_together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run `work` at the same time and return the results in order. The first error, which is raised, ends the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await cancel_and_wait(tasks)


async def wait_for_cleanup(*tasks: asyncio.Future[Any]) -> None:
    """Wait until all have ended, however they end; when cancelled, cancel each once and wait for its cleanup."""
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:  # in their order; one that is done is left alone
            task.cancel()
        left = {task for task in tasks if not task.done()}
        while left:
            with suppress(asyncio.CancelledError):  # `cancel_and_wait` cancels again
                _, left = await asyncio.wait(left)
        raise
