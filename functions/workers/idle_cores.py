"""Idle processors: the pressure that the kernel reports, or else the time that processors were idle."""

from __future__ import annotations

import os
from pathlib import Path

#: Pressure of this container (cgroup v2), then of the machine: share of time in which a runnable task waited for a
#: processor. Source: https://docs.kernel.org/accounting/psi.html
_PRESSURE = (Path("/sys/fs/cgroup/cpu.pressure"), Path("/proc/pressure/cpu"))
_STAT = Path("/proc/stat")
#: Seconds over which it is measured.
WINDOW = 0.5
#: Maximum pressure that counts as idle.
_MAX_PRESSURE = 0.1
#: Without pressure figures: minimum processors that were idle.
_MIN_IDLE = 0.5


class IdleCores:
    """Measures between two calls; the first call, and each after `restart`, only begins."""

    def __init__(self, pressure: tuple[Path, ...] = _PRESSURE, stat: Path = _STAT) -> None:
        self._pressure = next((path for path in pressure if _waited(path) is not None), None)
        self._stat = stat
        self._at = float("-inf")
        self._before = 0.0
        self._idle = False

    def idle(self, now: float) -> bool:
        """Return whether processors were idle in the last whole window.

        Args:
            now: monotonic time in seconds; the result changes at most once in `WINDOW`.
        """
        if now - self._at < WINDOW:
            return self._idle
        spent = self._spent()
        if self._at == float("-inf"):
            self._at, self._before = now, spent
            return False
        share = (spent - self._before) / (now - self._at)
        self._idle = share <= _MAX_PRESSURE if self._pressure is not None else share >= _MIN_IDLE
        self._at, self._before = now, spent
        return self._idle

    def restart(self) -> None:
        """Start a new window, because work was just given out: the time before it is no measure of what is idle now."""
        self._at, self._idle = float("-inf"), False

    def _spent(self) -> float:
        """Return seconds since the start: in which a task waited, or in which processors were idle (their sum)."""
        if self._pressure is not None:
            return _waited(self._pressure) or 0.0
        fields = self._stat.read_text().split("\n", 1)[0].split()
        # proc(5): "cpu", user, nice, system, idle, iowait, ...
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def _waited(path: Path) -> float | None:
    """Return the seconds in which some task waited for a processor; None when the kernel does not report it."""
    try:
        line = path.read_text().split("\n", 1)[0]
    except OSError:  # no cgroup v2, or a kernel without PSI (opening the file then fails)
        return None
    total = line.rpartition("total=")[2]
    return int(total) / 1e6 if line.startswith("some") and total.isdigit() else None
