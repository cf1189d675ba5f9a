"""The lease: an execution belongs to one worker, on the NATS server's clock.

The key `<project>.<execution>.lease` lives 10 s unless renewed. A worker that could not renew it in time stops by
its own monotonic clock before the key can vanish, so two workers never own one execution, however the wall
clocks stand.

A worker that was frozen or cut off for longer finds the key gone. Nobody need have taken the execution over, so it
takes the key again, and then asks the record: a sweep may have ended it, another attempt may have come and gone.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

import structlog

from ocf.events.errors import Conflict, NotYetKnown, Retry, Unavailable
from ocf.events.ports import Bucket, Clock
from ocf.events.refs import ExecutionRef
from ocf.functions.observability import metrics

log = structlog.get_logger()

TTL = 10
RENEW_EVERY = 3.0
#: When this long has passed since the last renewal that was sent, the lease no longer counts. What was said before may
#: still be on its way for `ocf.events.adapters.nats.bus.UNACKED` seconds, and must arrive before the key can vanish.
SAFE = TTL - 4.0


class Lease:
    """One worker's hold on one execution.

    `reclaim` is asked with the attempt's number when the key had expired and is ours again: whether the execution is
    still that attempt's. It must mark the record, so that who has just judged it ownerless sees that it moved.
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
        #: Set when the lease is lost; the run must stop at once.
        self.lost = asyncio.Event()
        self._news = asyncio.Event()

    def _value(self, attempt: int) -> bytes:
        return json.dumps({"worker": self._worker, "attempt": attempt}).encode()

    async def acquire(self, attempt: int) -> None:
        """Raises Conflict while another worker holds it."""
        asked = self._clock.monotonic()
        self._revision = await self._bucket.create(self._key, self._value(attempt), ttl=TTL)
        self._renewed = asked

    @property
    def held(self) -> bool:
        """Whether it still counts, judged without asking anybody."""
        return not self.lost.is_set() and self._clock.monotonic() - self._renewed < SAFE

    async def sure(self) -> bool:
        """Whether it is held, after waiting for as long as that cannot be known (the bus is away)."""
        while not self.held:
            if self.lost.is_set():
                return False
            self._news.clear()
            await self._news.wait()
        return True

    def doubt(self) -> None:
        """Somebody fenced the output off: not held until the record has been asked, as if the key had expired."""
        self._expired = True
        self._renewed = -math.inf

    async def keep(self, attempt: int) -> None:
        """Renew for ever; returns when the lease is lost."""
        while True:
            await self._clock.sleep(RENEW_EVERY)
            if not await self._renew(attempt):
                self.lost.set()
                self._news.set()
                return

    async def _renew(self, attempt: int) -> bool:
        asked = self._clock.monotonic()
        try:
            async with asyncio.timeout(RENEW_EVERY):
                self._revision = await self._bucket.update(self._key, self._value(attempt), self._revision, ttl=TTL)
        except Conflict:
            return await self._taken_again(attempt, asked)
        except (Unavailable, TimeoutError):
            # The bus is away. Without it nobody else can take the lease either, so it is taken up again when the
            # bus is back; whether that was in time, `_taken_again` finds out.
            log.warning("lease not renewed", action="lease.not_renewed", key=self._key)
            return True
        return await self._still_mine(attempt, asked)

    async def _taken_again(self, attempt: int, asked: float) -> bool:
        """After a refusal: the newest value is an answer to a renewal of ours that got lost, or the key expired."""
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
            return True  # not known; asked again at the next renewal
        except Conflict:
            return _taken_over()
        return await self._still_mine(attempt, asked)

    async def _still_mine(self, attempt: int, asked: float) -> bool:
        """The key is. After it had expired, the execution need not be: then nothing is said until that is known."""
        if self._expired:
            try:
                if not await self._reclaim(attempt):
                    await self._bucket.delete(self._key, revision=self._revision)
                    return False
            except NotYetKnown:
                return False  # deleted meanwhile
            except Retry:
                return True  # not known; asked again at the next renewal
            self._expired = False
        self._renewed = asked
        self._news.set()
        return True

    async def release(self) -> None:
        """Give it up, if it is still held.

        A renewal that was cut off on its way may have moved the key on since the revision that is known here.
        """
        for _ in range(2):
            try:
                await self._bucket.delete(self._key, revision=self._revision)
            except Conflict:
                entry = await self._bucket.get(self._key)
                if entry is None or json.loads(entry.value)["worker"] != self._worker:
                    return  # somebody else has it
                self._revision = entry.revision
            else:
                return


def _taken_over() -> bool:
    """Another worker has it: False, and counted. An end by the sweep or a deletion is not."""
    metrics.leases_lost.inc()
    return False
