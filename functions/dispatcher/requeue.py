"""Deliveries that were given back because it was not their turn: how long each stays away.

They wait in the stream and not here, where each would hold a place that another project's could use.
"""

from __future__ import annotations

from ocf.events.ports import Clock

#: All of a project that wait ask again at most this often together, in questions a second; each at least and at most
#: so many seconds after its last.
_RECHECKS_PER_SECOND = 10.0
_MIN_DELAY, MAX_DELAY = 1.0, 30.0


class RequeueBackoff:
    """One per consumer. Another dispatcher may get what this one gave back: it is forgotten when it is overdue."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: When each is due, by its project and stream sequence.
        self._due: dict[str | None, dict[int, float]] = {}

    def take_requeued(self, sequence: int, project: str | None = None) -> bool:
        """Note that it is back; whether it was given back here, and so has not failed."""
        due = self._due.get(project, {})
        found = due.pop(sequence, None)
        if not due:
            self._due.pop(project, None)
        return found is not None

    def delay(self, sequence: int, project: str | None = None) -> float:
        """Seconds for which to give it back: the more of its project wait, the longer."""
        now = self._clock.monotonic()
        due = self._due.setdefault(project, {})
        while due and next(iter(due.values())) < now - MAX_DELAY:
            del due[next(iter(due))]
        seconds = max(_MIN_DELAY, min(MAX_DELAY, (len(due) + 1) / _RECHECKS_PER_SECOND))
        due[sequence] = now + seconds
        return seconds
