"""A task that is to end does end, also one whose cancellation was swallowed on its way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ocf.functions.core.asyncio_tasks import cancel_and_wait


async def test_a_swallowed_cancellation_is_repeated() -> None:
    """Python 3.11's `wait_for` swallows one that comes with the answer: the task goes on, unless told again."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    async def failing() -> None:
        raise ValueError("its own affair")

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_and_wait(tasks), 5)
    assert all(task.done() for task in tasks)
    assert swallowed == 3
    with suppress(ValueError):
        tasks[1].result()
