"""Protection of processes that hold keys from other processes of their user."""

from __future__ import annotations

import sys

from ocf.functions.core import syscalls


def protect_self() -> None:
    """Make this process undumpable: no core file, and no other process of its user may read or trace it.

    Landlock already keeps sandboxed agents out; this also holds with `SANDBOX=off`, except against CAP_SYS_PTRACE.

    Raises:
        OSError: the kernel refused.

    Source: prctl(2).
    """
    if sys.platform == "linux":
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
