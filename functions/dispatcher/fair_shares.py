"""Who gets the next slot of a row: of the projects that wait, the one that holds least; in turn (ADR 0012)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

#: A project may hold this many times as many slots as it leaves free: three quarters of them while it is alone.
_RATIO = 3


class Shares:
    """The slots of one row, by project. A pure table: nothing in here waits.

    A project that holds none always may take a free slot. One that holds some may take another while it holds less
    than `_RATIO` times what is free beyond the last slot (a dynamic threshold, as switches share their buffers), so
    that one slot is left for a newcomer unless as many projects as there are slots hold one each. Nothing that runs is
    ended. With `quota` no project holds more than that, those counted in `elsewhere` included.
    """

    def __init__(self, slots: int, quota: int = 0) -> None:
        self._slots = slots
        self._quota = quota
        self._held: Counter[str] = Counter()
        #: Projects with something to deliver; the first is next.
        self._waiting: dict[str, None] = {}
        #: Of each project, how many run that hold no slot here.
        self._elsewhere: Mapping[str, int] = {}

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._slots - self._held.total()

    def held(self, project: str) -> int:
        """Slots that `project` holds."""
        return self._held[project]

    def count_elsewhere(self, counted: Mapping[str, int]) -> None:
        """Set how many executions of each project run that hold no slot here."""
        self._elsewhere = counted

    def wait(self, project: str) -> None:
        """Put `project` at the end of those that wait, unless it waits."""
        self._waiting.setdefault(project)

    def take(self, project: str) -> bool:
        """Give `project` one slot out of turn; whether it may have one."""
        return bool(self._take(project, 1))

    def next(self) -> tuple[str, int] | None:
        """Give slots to the project whose turn it is, and let it wait no longer: it holds least, or as little as others
        and had its last turn before them.

        Returns:
            The project and how many it holds more now: its part of what is free. None: nobody who waits may have one.
        """
        part = max(1, self.free // max(1, len(self._waiting)))
        for project in sorted(self._waiting, key=lambda each: self._held[each]):
            if taken := self._take(project, part):
                del self._waiting[project]
                return project, taken
        return None

    def release(self, project: str, slots: int = 1) -> None:
        """Free slots that `project` holds."""
        self._held[project] -= slots
        if self._held[project] <= 0:
            del self._held[project]

    def _take(self, project: str, most: int) -> int:
        taken = 0
        while taken < most and self._may_take(project):
            self._held[project] += 1
            taken += 1
        return taken

    def _may_take(self, project: str) -> bool:
        held, free = self._held[project], self.free
        if self._quota and held + self._elsewhere.get(project, 0) >= self._quota:
            return False
        return free > 0 and (held == 0 or held < _RATIO * (free - 1))
