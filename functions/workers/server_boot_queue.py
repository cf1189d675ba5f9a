"""Limit of concurrent server boots over all workers of one parent.

A demanded boot, for which a run waits, starts as soon as there is a turn. A spare boot, for the next run, starts only
while no run could miss the processor.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

_CGROUP = Path("/sys/fs/cgroup")

W = TypeVar("W")


class BootQueue(Generic[W]):
    """Queue of boots: as many at once as there are processors (at least two), in the order of the requests.

    `give` is called for a worker when it may boot; its second argument states whether in idle time only.
    """

    def __init__(self, give: Callable[[W, bool], None]) -> None:
        self._give = give
        self._most = max(2, available_cores())
        self._running: set[W] = set()
        self._waiting: deque[W] = deque()
        self._spares: deque[W] = deque()

    @property
    def spares_wait(self) -> bool:
        """Return whether a spare boot waits."""
        return bool(self._spares)

    def request(self, worker: W) -> None:
        """Queue a demanded boot of `worker`; its spare boot, if that waits, becomes this one."""
        if worker in self._running:
            return  # a spare boot that runs is demanded now: the worker gives it its priority itself
        with suppress(ValueError):
            self._spares.remove(worker)
        self._waiting.append(worker)
        self._next()

    def request_spare(self, worker: W) -> None:
        """Queue a spare boot of `worker`, for `admit`."""
        self._spares.append(worker)

    def admit(self, eligible: Container[W], *, runs: bool) -> None:
        """Start the spare boots of `eligible` workers that may start now.

        Args:
            eligible: workers that are kept.
            runs: an execution runs, so a boot is to take idle time only, and no two at once.
        """
        most = 1 if runs else self._most
        for worker in [worker for worker in self._spares if worker in eligible]:
            if self._waiting or len(self._running) >= most:
                return
            self._spares.remove(worker)
            self._running.add(worker)
            self._give(worker, runs)

    def release(self, worker: W) -> None:
        """Remove a worker that has booted, withdrawn its request, or died."""
        self._running.discard(worker)
        for queue in (self._waiting, self._spares):
            with suppress(ValueError):
                queue.remove(worker)
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._most:
            worker = self._waiting.popleft()
            self._running.add(worker)
            self._give(worker, False)


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Return the processors available to this process, rounded up, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # the container has no limit
