"""Protection of processes with keys from other processes of the same user."""

from __future__ import annotations

import sys

from ocf.functions.core import syscalls


def protect_self() -> None:
    """Make this process undumpable: no core file, and no other process of the user may read or trace it.

    Landlock already excludes sandboxed agents. This protection also applies with `SANDBOX=off`, except against
    processes with CAP_SYS_PTRACE. Source: prctl(2), PR_SET_DUMPABLE.

    Raises:
        OSError: The kernel refused.
    """
    if sys.platform == "linux":
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
