"""Progress of a run in its record: a write that fails for good does not end the later ones."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ocf.events.errors import DeadLetter
from ocf.events.output import Usage
from ocf.functions.core.execution_store import Records
from ocf.functions.execute.attempt import record_progress
from ocf.functions.execute.attempt.record_progress import Progress
from tests.support.clock import ManualClock


class Refusing:
    """Records of which the first change fails for good, as with a record that a newer release has written."""

    def __init__(self) -> None:
        self.changes = 0
        self.stored = asyncio.Event()

    async def change(self, *_: object) -> Any:
        self.changes += 1
        if self.changes == 1:
            raise DeadLetter("the record has an unknown field")
        self.stored.set()


async def test_progress_goes_on_after_a_write_that_failed_for_good() -> None:
    """A later change may say that the agent waits for an answer of its user."""
    records, clock = Refusing(), ManualClock()
    progress = Progress(cast(Records, records), clock, "p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
    writing = asyncio.create_task(progress.write_changes(lambda: 1))
    for _ in range(2):
        progress.usage(Usage())
        await clock.advance(record_progress._AT_MOST_EVERY)
    async with asyncio.timeout(5):
        await records.stored.wait()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
