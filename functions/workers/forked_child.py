"""A forked child: what it does before its work, and its only way out."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def detach(name: str, parent: int) -> None:
    """Make this process a session of its own that dies with `parent` and gets none of its signals.

    Args:
        name: Name in process lists, cut to 15 bytes.
        parent: Process id before the fork.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _LIBC.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:  # the parent died before prctl
        os._exit(1)
    os.setsid()
    signal.set_wakeup_fd(-1)


def close_others(kept: Collection[int]) -> None:
    """Close all descriptors from 3 on, except `kept`."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def exit_with(work: Callable[[], int]) -> NoReturn:
    """Exit with the status that `work` returns or exits with; 1 after a traceback.

    A child must not return: the objects of the parent, whose descriptors it closed, must not be finalised.
    """
    status = 1
    try:
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
