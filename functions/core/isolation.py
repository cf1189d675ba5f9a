"""One item of a loop cannot stop the others: its failure is logged, counted, and tried again later and later."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from ocf.events.errors import NotYetKnown, OcfError, Retry, Unavailable
from ocf.events.ports import Bus, Clock, ObjectStore
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Seconds until a failed item is tried again: after the first failure, doubled with each, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 15.0, 3600.0
#: Items that are remembered; beyond them the oldest is tried with every tick.
_REMEMBERED = 10_000


class Isolation:
    """Runs the steps of loops over records and executions, one item at a time. One per process."""

    def __init__(self, clock: Clock, bus: Bus, store: ObjectStore) -> None:
        self._clock = clock
        self._bus = bus
        self._store = store
        #: By loop and item: failures so far, and when it may be tried again.
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}

    def is_paused(self, loop: str, item: str) -> bool:
        """Whether it has failed and is not to be tried yet."""
        return self._failed.get((loop, item), (0, 0.0))[1] > self._clock.monotonic()

    async def run(self, loop: str, item: str, step: Awaitable[object], **about: str) -> bool:
        """Await `step`; whether it went well.

        Args:
            loop: names the loop in the log and in `ocf_item_failures_total`.
            item: names the record or execution, for the pause after a failure.
            step: what is done for it.
            about: log fields that identify it.

        Raises:
            Unavailable: NATS or S3 does not answer. That is no item's fault: the whole tick is to be repeated.
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
            # Words of ours only: those of another error may quote what an agent has said.
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
