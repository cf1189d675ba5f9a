"""Turns to boot a server, over all workers of one parent."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

_CGROUP = Path("/sys/fs/cgroup")

W = TypeVar("W")


class BootQueue(Generic[W]):
    """As many at once as there are processors (two at least), in the order of asking; `give` says whose turn it is."""

    def __init__(self, give: Callable[[W], None]) -> None:
        self._give = give
        self._most = max(2, available_cores())
        self._running: set[W] = set()
        self._waiting: deque[W] = deque()

    def request(self, worker: W) -> None:
        """It wants to boot one."""
        self._waiting.append(worker)
        self._next()

    def release(self, worker: W) -> None:
        """It has booted, no longer wants to, or is dead."""
        self._running.discard(worker)
        with suppress(ValueError):
            self._waiting.remove(worker)
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._most:
            worker = self._waiting.popleft()
            self._running.add(worker)
            self._give(worker)


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Processors that this process may keep busy, at least 1; a part of one counts as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # no bound of the container's
