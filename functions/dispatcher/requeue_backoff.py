"""Delays of requeued deliveries (425: others of the session or project come first).

They wait in the stream, because in the dispatcher each would hold a slot that another project could use.
"""

from __future__ import annotations

from ocf.events.ports import Clock

#: Re-checks per second over all requeued deliveries of a project, and minimum and maximum delay of one in seconds.
_RECHECKS_PER_SECOND = 10.0
_MIN_DELAY, MAX_DELAY = 1.0, 30.0


class RequeueBackoff:
    """Requeued deliveries of one consumer. Overdue entries are removed, because another dispatcher may get them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Due time (monotonic seconds) by project and stream sequence.
        self._due: dict[str | None, dict[int, float]] = {}

    def take_requeued(self, sequence: int, project: str | None = None) -> bool:
        """Remove a returning delivery; return whether it was requeued here, and so has not failed."""
        due = self._due.get(project, {})
        found = due.pop(sequence, None)
        if not due:
            self._due.pop(project, None)
        return found is not None

    def delay(self, sequence: int, project: str | None = None) -> float:
        """Record a requeued delivery; return its delay in seconds, which grows with those of the same project."""
        now = self._clock.monotonic()
        due = self._due.setdefault(project, {})
        while due and next(iter(due.values())) < now - MAX_DELAY:
            del due[next(iter(due))]
        seconds = max(_MIN_DELAY, min(MAX_DELAY, (len(due) + 1) / _RECHECKS_PER_SECOND))
        due[sequence] = now + seconds
        return seconds
