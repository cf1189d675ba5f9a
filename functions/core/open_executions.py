"""The executions that may be open: one small key for each in `ocf_open`, so that a sweep reads no ended record.

The submit function writes the key before its submit is acknowledged; the sweep removes it after the end of the
execution. Records of a release without these keys get theirs from the first sweeps (`upgrade`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta

from ocf.events.errors import Conflict
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bucket, Entry

#: Its value is the time until which functions of the release before may write records without keys.
_UPGRADE = "upgrade"
_UPGRADE_TIME = timedelta(hours=1)


class OpenExecutions:
    """The bucket `ocf_open`. Its keys are those of the records; they have no value."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def add(self, ref: ExecutionRef) -> None:
        """Write the key of an execution, unless there is one."""
        with suppress(Conflict):
            await self._bucket.create(ref.record_key, b"")

    async def remove(self, ref: ExecutionRef) -> None:
        """Remove the key of an execution that has ended, or was deleted."""
        await self._bucket.delete(ref.record_key)

    async def refs(self, project: str = "*") -> AsyncIterator[ExecutionRef]:
        """Yield the executions that have a key, of all projects or of one."""
        async for entry in self._bucket.entries(f"{project}.*"):
            yield ExecutionRef(*entry.key.split("."))

    async def any(self) -> bool:
        """Return whether there is a key, also one that a replica which lags does not have yet."""
        return await self._bucket.newest("*.*") is not None or await anext(self.refs(), None) is not None

    async def expect_upgrade(self, now: datetime, *, records: bool) -> None:
        """Note at the first setup whether there are `records` of a release without keys."""
        with suppress(Conflict):
            await self._bucket.create(_UPGRADE, (now + _UPGRADE_TIME).isoformat().encode() if records else b"")

    async def upgrade(self) -> Entry | None:
        """Return the note that records may lack their keys, at least once after an upgrade."""
        entry = await self._bucket.get(_UPGRADE)
        return entry if entry is not None and entry.value else None

    async def end_upgrade(self, note: Entry, now: datetime) -> None:
        """Remove the note if its hour is over."""
        if now > datetime.fromisoformat(note.value.decode()):
            with suppress(Conflict):
                await self._bucket.update(_UPGRADE, b"", note.revision)
