"""Isolation of failing items in a loop: a failure is logged and counted, and the item retried with backoff."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from ocf.events.errors import NotYetKnown, OcfError, Retry, Unavailable
from ocf.events.ports import Bus, Clock, ObjectStore
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Seconds until a failed item is retried: after the first failure (doubled with each), and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 15.0, 3600.0
#: Failed items with a backoff; beyond this number the oldest is retried with every tick.
_REMEMBERED = 10_000


class Isolation:
    """Runner for the steps of loops over records and executions, one item at a time. One per process."""

    def __init__(self, clock: Clock, bus: Bus, store: ObjectStore) -> None:
        self._clock = clock
        self._bus = bus
        self._store = store
        #: By loop and item: failures so far, and the time of the next attempt (monotonic seconds).
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}

    def is_paused(self, loop: str, item: str) -> bool:
        """Return whether an item has failed and its backoff is not over."""
        return self._failed.get((loop, item), (0, 0.0))[1] > self._clock.monotonic()

    async def run(self, loop: str, item: str, step: Awaitable[object], **about: str) -> bool:
        """Await `step`; return whether it succeeded.

        Args:
            loop: Name of the loop in the log and in `ocf_item_failures_total`.
            item: Name of the record or execution, for the backoff.
            step: The work for this item.
            about: Log fields that identify the item.

        Raises:
            Unavailable: NATS or S3 does not answer. The caller must repeat the whole tick, as no item is at fault.
        """
        key = (loop, item)
        try:
            await step
        except NotYetKnown:
            self._failed.pop(key, None)  # deleted meanwhile
        except Exception as error:
            if isinstance(error, Unavailable):
                await self._bus.ready()
                await self._store.ready()
            self._note(key)
            # Only our own messages: those of other errors may quote an agent's output.
            reason = str(error) if isinstance(error, OcfError) else type(error).__name__
            metrics.item_failures.labels(loop).inc()
            log_failure = log.warning if isinstance(error, Retry) else log.error
            log_failure("item failed", action=f"{loop}.failed", reason=reason, exc_info=_unexpected(error), **about)
            return False
        else:
            self._failed.pop(key, None)
        return True

    def _note(self, key: tuple[str, str]) -> None:
        count = self._failed.pop(key, (0, 0.0))[0] + 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(count - 1, 20))
        self._failed[key] = (count, self._clock.monotonic() + pause)
        while len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, OcfError) else error
