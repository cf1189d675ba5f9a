"""Priority of agents that nobody waits for yet: they run only on processors that are otherwise idle.

Standard library only: the supervisor imports it. Two settings are needed. `SCHED_IDLE` weighs a thread within its
group; a session is a group of its own where the kernel groups by session (sched(7), "The autogroup feature"), so the
group has a weight, too.
"""

from __future__ import annotations

import os
import resource

from ocf.functions.core import syscalls
from ocf.functions.execute.sandbox import procfs

_LOWEST, _NORMAL = 19, 0


def may_return() -> bool:
    """Return whether this process may raise an agent's priority again: lowering it is allowed to everybody."""
    # The limit is 20 - nice (getrlimit(2), RLIMIT_NICE).
    return syscalls.CAP_SYS_NICE in syscalls.capabilities() or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20


def lower_self() -> None:
    """Give this process, and all that it starts in this session, idle priority."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _group(os.getpid(), _LOWEST)


def raise_tree(root: int) -> None:
    """Give every process below `root` normal priority; those that have ended or never were idle are left alone."""
    for pid in procfs.sample(root).pids:
        try:
            threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
            idle = [thread for thread in threads if os.sched_getscheduler(thread) == os.SCHED_IDLE]
            for thread in idle:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            if idle:
                _group(pid, _NORMAL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _group(pid: int, nice: int) -> None:
    try:
        with open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        # The kernel does not group by session, or takes no further change now: the policy alone counts.
        return
