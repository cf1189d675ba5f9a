"""Leader election among the replicas of the dispatcher: one key with a TTL, by the NATS server's clock (ADR 0026).

Order and fair shares are in the memory of a dispatcher, so that one process must handle all routes. Its lease is not
exact: a leader that was frozen for longer than the TTL may overlap with the next one until its next renewal. Then
events are delivered twice, as after each lost acknowledgement, and functions handle that.
"""

from __future__ import annotations

import asyncio

import structlog

from ocf.events.errors import Conflict, OcfError
from ocf.events.ports import Bucket, Clock
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Seconds until the key of a leader that is gone expires, between two renewals, and between two looks of a standby.
TTL = 10
RENEW_EVERY = 3.0
LOOK_EVERY = 1.0


class Leader:
    """One candidate.

    Args:
        bucket: Bucket of the key.
        key: The key. Empty: there is no election, and this process always leads.
        holder: Name of the pod. A container that was restarted in its pod goes on with the lease of the one before.
        clock: The clock.
    """

    def __init__(self, bucket: Bucket, key: str, holder: str, clock: Clock) -> None:
        self._bucket = bucket
        self._key = key
        self._holder = holder.encode()
        self._clock = clock
        self._revision = 0
        self._leads = False

    async def state(self) -> str:
        """Return `leads` or `standby`, for `/ready`."""
        return "leads" if self._leads else "standby"

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while self._key and not await self._try():
            await self._clock.sleep(LOOK_EVERY)
        self._set(True)
        log.info("this dispatcher leads", action="dispatch.leads")

    async def _try(self) -> bool:
        try:
            found = await self._bucket.get(self._key)
            if found is None:
                self._revision = await self._bucket.create(self._key, self._holder, ttl=TTL)
            elif found.value == self._holder:
                self._revision = await self._bucket.update(self._key, self._holder, found.revision, ttl=TTL)
            else:
                return False
        except Conflict:
            return False
        except OcfError as error:
            log.warning("leader unknown", action="dispatch.leader_unknown", reason=str(error))
            return False
        return True

    async def keep(self) -> None:
        """Renew the lease until another process leads; return then."""
        while not self._key or await self._renew():
            await self._clock.sleep(RENEW_EVERY)
        self._set(False)
        log.warning("another dispatcher leads", action="dispatch.leads_no_more")

    async def _renew(self) -> bool:
        """Return whether this process leads. While NATS does not answer nobody else can, and the key may expire."""
        try:
            async with asyncio.timeout(RENEW_EVERY):
                self._revision = await self._bucket.update(self._key, self._holder, self._revision, ttl=TTL)
        except Conflict:
            return await self._try()
        except (OcfError, TimeoutError) as error:
            log.warning("lease not renewed", action="dispatch.lease_not_renewed", reason=str(error) or "no answer")
        return True

    async def release(self) -> None:
        """Let another process lead at once, if this one does."""
        held = self._leads and self._key
        self._set(False)
        if not held:
            return
        try:
            async with asyncio.timeout(RENEW_EVERY):
                await self._bucket.delete(self._key, revision=self._revision)
        except (OcfError, TimeoutError) as error:
            # The key expires.
            log.info("lease not released", action="dispatch.lease_not_released", reason=str(error) or "no answer")

    def _set(self, leads: bool) -> None:
        self._leads = leads
        metrics.dispatcher_leads.set(leads)
