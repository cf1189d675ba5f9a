"""Limit of concurrent server boots over all workers of one parent."""

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
    """Queue of boots: as many at once as there are processors (at least two), in the order of the requests.

    `give` is called for a worker when it may boot.
    """

    def __init__(self, give: Callable[[W], None]) -> None:
        self._give = give
        self._most = max(2, available_cores())
        self._running: set[W] = set()
        self._waiting: deque[W] = deque()

    def request(self, worker: W) -> None:
        """Queue a boot of `worker`."""
        self._waiting.append(worker)
        self._next()

    def release(self, worker: W) -> None:
        """Remove a worker that has booted, withdrawn its request, or died."""
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
    """Return the processors available to this process, rounded up, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # the container has no limit
