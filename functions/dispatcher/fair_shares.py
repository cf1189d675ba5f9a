"""Fair sharing of a route's slots: the waiting project with the fewest slots is next, in turn (ADR 0012)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

#: A project may hold this many times as many slots as it leaves free: three quarters of them while it is alone.
_RATIO = 3


class Shares:
    """The slots of one route by project. A pure table without waiting.

    A project without a slot may always take a free one. A project with slots may take another while it has fewer than
    `_RATIO` times the free slots beyond the last one (a dynamic threshold, as in the shared buffers of switches). One
    slot therefore stays free for a new project, unless as many projects as slots have one each. Running work is never
    stopped. With a `quota` no project exceeds it, including the executions of `count_elsewhere`.
    """

    def __init__(self, slots: int, quota: int = 0) -> None:
        self._slots = slots
        self._quota = quota
        self._held: Counter[str] = Counter()
        #: Projects with messages to deliver; the first is next.
        self._waiting: dict[str, None] = {}
        #: Running executions by project without a slot here.
        self._elsewhere: Mapping[str, int] = {}

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self._slots - self._held.total()

    def held(self, project: str) -> int:
        """Return the number of slots of `project`."""
        return self._held[project]

    def count_elsewhere(self, counted: Mapping[str, int]) -> None:
        """Set the running executions by project that have no slot here."""
        self._elsewhere = counted

    def wait(self, project: str) -> None:
        """Append `project` to the waiting projects unless it waits."""
        self._waiting.setdefault(project)

    def take(self, project: str) -> bool:
        """Give `project` a slot out of turn; return whether it may have one."""
        return bool(self._take(project, 1))

    def next(self) -> tuple[str, int] | None:
        """Give slots to the next waiting project: the one with the fewest slots; among equals, the longest wait.

        Returns:
            The project and the number of new slots (its share of the free ones), or None if no waiting project may have
            a slot.
        """
        part = max(1, self.free // max(1, len(self._waiting)))
        for project in sorted(self._waiting, key=lambda each: self._held[each]):
            if taken := self._take(project, part):
                del self._waiting[project]
                return project, taken
        return None

    def release(self, project: str, slots: int = 1) -> None:
        """Release slots of `project`."""
        self._held[project] -= slots
        if self._held[project] <= 0:
            del self._held[project]

    def _take(self, project: str, most: int) -> int:
        taken = 0
        while taken < most and self.has_room(project):
            self._held[project] += 1
            taken += 1
        return taken

    def has_room(self, project: str) -> bool:
        """Return whether `project` may have another slot."""
        held, free = self._held[project], self.free
        if self._quota and held + self._elsewhere.get(project, 0) >= self._quota:
            return False
        return free > 0 and (held == 0 or held < _RATIO * (free - 1))
