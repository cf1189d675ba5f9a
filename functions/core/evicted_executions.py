"""Ended executions that have left the bucket: their record, and the use of their id.

`ocf.functions.cleanup.execution_eviction` removes them from there.

An id is remembered by a key with a TTL, and afterwards by the manifest of its archive.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from ocf.events.archive_manifest import MANIFEST, archived_record
from ocf.events.errors import Conflict, Unavailable, Unreadable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bucket, ObjectStore

#: Seconds that a submit waits for S3's answer about its id.
_PATIENCE = 1.0


@dataclass(frozen=True)
class UsedId:
    """The id of an ended execution: digests of its task and of the call that made it, and its state."""

    digest: str
    request_digest: str
    state: str


class EndedExecutions:
    """Executions without a record in `bucket`."""

    def __init__(self, bucket: Bucket, store: ObjectStore) -> None:
        self._bucket = bucket
        self._store = store

    async def record(self, ref: ExecutionRef) -> Record | None:
        """Return the record in the archive, or None. Raises Unavailable and Unreadable."""
        return await archived_record(self._store, ref)

    async def evict(self, record: Record, lifetime: timedelta) -> None:
        """Remove a record, and remember its id. Its other data must have been removed before."""
        ref = record.ref
        kept = {"digest": record.digest, "request_digest": record.request_digest, "state": record.state.value}
        with suppress(Conflict):  # remembered by an earlier try
            await self._bucket.create(ref.ended_key, json.dumps(kept).encode(), ttl=round(lifetime.total_seconds()))
        await self._bucket.delete(ref.record_key)

    async def forget(self, ref: ExecutionRef) -> None:
        """Remove the remembered id of a deleted execution."""
        await self._bucket.delete(ref.ended_key)

    async def used(self, ref: ExecutionRef) -> UsedId | None:
        """Return the ended execution of this id; None if the id is free, or belongs to a record in the bucket.

        Without an answer of S3 within a second, an id that is not remembered counts as free: submits do not need S3.
        """
        entry = await self._bucket.get(ref.ended_key)
        if entry is not None:
            return UsedId(**json.loads(entry.value))
        try:
            async with asyncio.timeout(_PATIENCE):
                # Most ids are new, which this finds without an error.
                if await self._store.head(ref.object_key(MANIFEST)) is None:
                    return None
                record = await archived_record(self._store, ref)
        except (TimeoutError, Unavailable, Unreadable):
            return None
        if record is None or await self._bucket.get(ref.record_key) is not None:
            return None
        return UsedId(record.digest, record.request_digest, record.state.value)
