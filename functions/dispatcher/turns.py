"""Deliveries that were given back because it was not their turn: how long each stays away.

They wait in the stream and not here, where each would hold a place that another project's could use.
"""

from __future__ import annotations

from events.ports import Clock

#: All who wait ask again at most this often together, in questions a second; each at least and at most so many seconds
#: after its last.
_QUESTIONS = 10.0
_SHORTEST, LONGEST = 1.0, 30.0


class Turns:
    """One per consumer. Another dispatcher may get what this one gave back: it is forgotten when it is overdue."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: When each is due, by its stream sequence.
        self._due: dict[int, float] = {}

    def came(self, sequence: int) -> bool:
        """Note that it is back; whether it was given back here, and so has not failed."""
        return self._due.pop(sequence, None) is not None

    def pause(self, sequence: int) -> float:
        """Seconds for which to give it back."""
        now = self._clock.monotonic()
        while self._due and next(iter(self._due.values())) < now - LONGEST:
            del self._due[next(iter(self._due))]
        seconds = max(_SHORTEST, min(LONGEST, (len(self._due) + 1) / _QUESTIONS))
        self._due[sequence] = now + seconds
        return seconds
