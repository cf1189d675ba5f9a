"""Watchdogs: wall clock, silence, size of the workspace. The supervisor watches memory and processes itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from ocf.events.lifecycle import Reason, Step
from ocf.events.ports import Clock
from ocf.functions.execute.attempt.stop_signal import StopReason, StopSignal, failed
from ocf.functions.execute.sandbox.disk_usage import DiskUsageScan

log = structlog.get_logger()

_LOOK_EVERY = 1.0
_WALK_EVERY = 10.0
#: When a quarter (1 / `_EARLY`) of the limit has disappeared from the disk, the workspace is scanned early.
_EARLY = 4


@dataclass(frozen=True)
class Bounds:
    """Times in seconds, sizes in bytes. `wall_left` is the time left, counted from the start of the first attempt."""

    wall_left: float
    wall: int
    silence: int
    workspace: int


class Activity:
    """Time of the last activity: output, a model call, a tool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        #: While the agent waits for an answer, silence is not a fault.
        self.waiting = False

    def note(self) -> None:
        """Record activity now."""
        self._at = self._clock.monotonic()

    @property
    def silent_for(self) -> float:
        """Return the seconds since the last activity."""
        return 0.0 if self.waiting else self._clock.monotonic() - self._at


async def watch(
    bounds: Bounds,
    stop_signal: StopSignal,
    clock: Clock,
    activity: Activity,
    roots: Callable[[], tuple[Path, ...]],
    measure: Callable[[int], Awaitable[str | None]] | None = None,
) -> None:
    """Decide the stop reason when a bound is exceeded; return once one is decided.

    `measure` returns the exceeded disk limit as `exceeded_disk_limit` does; None: that function on `roots()`.
    """
    began = walked = clock.monotonic()
    free = 0
    while stop_signal.stop_reason is None:
        await clock.sleep(_LOOK_EVERY)
        now = clock.monotonic()
        left = _free(roots())
        if now - began >= bounds.wall_left:
            stop_signal.decide(StopReason(Step.TIME_OUT, f"it ran longer than {bounds.wall} s"))
        elif activity.silent_for >= bounds.silence:
            stop_signal.decide(failed(Reason.STALLED, f"neither model nor tool did anything for {bounds.silence} s"))
        # A full disk also harms other executions, so a scan runs early when free space has dropped since the last one.
        elif now - walked >= _WALK_EVERY or free - left >= bounds.workspace // _EARLY:
            walked, free = now, left
            if over := await _measured(roots(), bounds.workspace, measure):
                stop_signal.decide(failed(Reason.OUTPUT_LIMIT, over))
        free = max(free, left)


async def _measured(
    roots: tuple[Path, ...], limit: int, measure: Callable[[int], Awaitable[str | None]] | None
) -> str | None:
    if measure is None:
        return await asyncio.to_thread(exceeded_disk_limit, roots, limit)
    try:
        return await measure(limit)
    except OSError as error:
        # The agent's container is gone or too slow. The next scan tries again, and the end of its tree is noticed
        # elsewhere.
        log.warning("workspace not measured", action="watchdog.not_measured", reason=str(error))
        return None


def exceeded_disk_limit(
    roots: tuple[Path, ...], limit: int, unlinked_open: Callable[[], int] = lambda: 0
) -> str | None:
    """Return which disk limit is exceeded, as a message; None when none is.

    Args:
        roots: folders to scan.
        limit: bytes on disk.
        unlinked_open: returns the bytes of deleted files that are still open, which a scan of `roots` cannot find.
    """
    scan = DiskUsageScan(limit)
    try:
        for root in roots:
            scan.scan(root)
    except OSError as error:
        # Caused by the machine, not by the agent: the scanned part counts, and the next scan follows.
        log.warning("workspace not measured", action="watchdog.not_measured", reason=str(error))
    scan.size += unlinked_open()
    return scan.over


def _free(roots: tuple[Path, ...]) -> int:
    """Return the free bytes of the disk that the agent writes to; 0 while there is none."""
    try:
        found = os.statvfs(roots[0])
    except (IndexError, OSError):
        return 0
    return found.f_bavail * found.f_frsize
