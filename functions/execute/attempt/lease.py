"""Lease of an execution: one worker at a time, timed by the NATS server's clock.

The key `<project>.<execution>.lease` lives 10 s unless renewed. A worker that cannot renew it in time stops by its own
monotonic clock before the key can expire. So two workers never own one execution, whatever their wall clocks show.

A worker that was frozen or cut off for longer finds the key gone. Nobody has to have taken the execution over, so the
worker re-creates the key and then checks the record: a sweep may have ended the execution, or another attempt may have
run.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

import structlog

from ocf.events.errors import Conflict, NotYetKnown, Retry, Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bucket, Clock
from ocf.functions.observability import metrics

log = structlog.get_logger()

TTL = 10
RENEW_EVERY = 3.0
#: Seconds after the last renewal was sent at which the lease no longer counts as held. Output sent before that may stay
#: unacknowledged for `ocf.events.adapters.nats.bus.UNACKED` seconds and must arrive before the key can expire.
SAFE = TTL - 4.0


class Lease:
    """The lease of one worker on one execution.

    `reclaim(attempt)` is called after the expired key was re-created. It returns whether the execution still belongs to
    that attempt, and must update the record so that a concurrent takeover loses its compare-and-set.
    """

    def __init__(
        self,
        bucket: Bucket,
        clock: Clock,
        project: str,
        execution: str,
        *,
        worker: str,
        reclaim: Callable[[int], Awaitable[bool]],
    ) -> None:
        self._reclaim = reclaim
        self._expired = False
        self._bucket = bucket
        self._clock = clock
        self._key = ExecutionRef(project, execution).lease_key
        self._worker = worker
        self._revision = 0
        self._renewed = 0.0
        #: Set when the lease is lost. The run must then stop at once.
        self.lost = asyncio.Event()
        self._changed = asyncio.Event()

    def _value(self, attempt: int) -> bytes:
        return json.dumps({"worker": self._worker, "attempt": attempt}).encode()

    async def acquire(self, attempt: int) -> None:
        """Create the lease key.

        Raises:
            Conflict: another worker holds the lease.
        """
        sent_at = self._clock.monotonic()
        self._revision = await self._bucket.create(self._key, self._value(attempt), ttl=TTL)
        self._renewed = sent_at

    @property
    def held(self) -> bool:
        """Return whether the lease still counts as held, judged by the local clock alone."""
        return not self.lost.is_set() and self._clock.monotonic() - self._renewed < SAFE

    async def wait_until_held(self) -> bool:
        """Wait while the bus is away, and return whether the lease is held (False: lost)."""
        while not self.held:
            if self.lost.is_set():
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    def invalidate(self) -> None:
        """Treat the lease as expired until the record confirms it: another process fenced the output."""
        self._expired = True
        self._renewed = -math.inf

    async def repeat(self, step: Callable[[], Awaitable[object]]) -> None:
        """Repeat `step` until the bus accepts it: an outage delays a run, but does not change how it ends.

        Returns:
            Also when the execution was deleted.

        Raises:
            Conflict: the lease is lost.
        """
        while not self.lost.is_set():
            try:
                await step()
                return
            except NotYetKnown:
                return
            except Retry as error:
                log.warning("not stored yet", action="lease.not_stored_yet", key=self._key, reason=str(error))
                await self._clock.sleep(1.0)
        raise Conflict("another worker has it")

    async def keep_alive(self, attempt: int) -> None:
        """Renew the lease until it is lost. After an unexpected error nobody renews it, so it counts as lost."""
        try:
            renewed = True
            while renewed:
                await self._clock.sleep(RENEW_EVERY)
                renewed = await self._renew(attempt)
        except Exception as error:
            # The message is omitted: it may quote the record.
            log.error("lease not renewed", action="lease.failed", key=self._key, error=type(error).__name__)
        self.lost.set()
        self._changed.set()

    async def _renew(self, attempt: int) -> bool:
        sent_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(RENEW_EVERY):
                self._revision = await self._bucket.update(self._key, self._value(attempt), self._revision, ttl=TTL)
        except Conflict:
            return await self._reacquire(attempt, sent_at)
        except (Unavailable, TimeoutError):
            # Without the bus no other worker can take the lease, so renewals continue. `_reacquire` finds out whether
            # the key expired in the meantime.
            log.warning("lease not renewed", action="lease.not_renewed", key=self._key)
            return True
        return await self._confirm(attempt, sent_at)

    async def _reacquire(self, attempt: int, sent_at: float) -> bool:
        """Recover from a refused renewal: an earlier renewal succeeded without its answer, or the key expired."""
        try:
            entry = await self._bucket.get(self._key)
            if entry is None:
                self._expired = True
                self._revision = await self._bucket.create(self._key, self._value(attempt), ttl=TTL)
            elif entry.value == self._value(attempt):
                self._revision = await self._bucket.update(self._key, entry.value, entry.revision, ttl=TTL)
            else:
                return _taken_over()
        except Unavailable:
            return True  # unknown; the next renewal tries again
        except Conflict:
            return _taken_over()
        return await self._confirm(attempt, sent_at)

    async def _confirm(self, attempt: int, sent_at: float) -> bool:
        """Mark the lease as renewed. After an expiry, check first that the execution still belongs to `attempt`."""
        if self._expired:
            try:
                if not await self._reclaim(attempt):
                    await self._bucket.delete(self._key, revision=self._revision)
                    return False
            except NotYetKnown:
                return False  # the execution was deleted
            except Retry:
                return True  # unknown; the next renewal tries again
            self._expired = False
        self._renewed = sent_at
        self._changed.set()
        return True

    async def release(self) -> None:
        """Delete the lease key if this worker still holds it.

        A renewal whose answer was lost may have moved the key past the revision known here.
        """
        for _ in range(2):
            try:
                await self._bucket.delete(self._key, revision=self._revision)
            except Conflict:
                entry = await self._bucket.get(self._key)
                if entry is None or json.loads(entry.value)["worker"] != self._worker:
                    return  # another worker holds it
                self._revision = entry.revision
            else:
                return


def _taken_over() -> bool:
    """Count a lost lease and return False. Ends by the sweep and deletions are not counted."""
    metrics.leases_lost.inc()
    return False
