"""How a worker begins: forked off its parent, or started anew where system libraries do not survive a fork."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, NoReturn

from ocf.functions.workers.environment import unseal, without_secrets
from ocf.functions.workers.metrics_sum import Tally
from ocf.functions.workers.parent_link import Link

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Child(NamedTuple):
    """What a worker is told: its number of so many, the parent's state folder, and three descriptors: its end of the
    link, the environment, and the counts of all."""

    number: int
    workers: int
    state_dir: str
    link: int
    sealed: int
    counts: int


def start(child: Child, blocked: Collection[signal.Signals], *, fork: bool = sys.platform == "linux") -> int:
    """A new worker's pid. `blocked`: signals that the parent handles, and that must not get lost in between."""
    if not fork:
        command = (sys.executable, "-m", __name__, *map(str, child))
        process = subprocess.Popen(command, env=without_secrets(os.environ), pass_fds=child[3:], start_new_session=True)
        process.returncode = 0  # the parent waits for it, and not this object
        return process.pid
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        pid = os.fork()
        if pid == 0:
            _become(child, blocked, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    return pid


def _become(child: Child, blocked: Collection[signal.Signals], parent: int) -> NoReturn:
    """Never returns, so that the parent's objects, whose descriptors are closed here, are never taken apart."""
    status = 1
    try:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _LIBC.prctl(_PR_SET_NAME, b"ocf-worker", 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        os.setsid()  # signals to the parent's group are the parent's
        signal.set_wakeup_fd(-1)
        for number in blocked:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        first = 3
        for kept in sorted(child[3:]):  # connections of others would stay open with this process
            os.closerange(first, kept)
            first = kept + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        status = _work(child)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _work(child: Child) -> int:
    """Be the worker in that number, with a state folder and, where one is given, a name of its own."""
    unseal(child.sealed)
    os.environ["STATE_DIR"] = str(Path(child.state_dir) / f"worker-{os.getpid()}")
    if os.environ.get("WORKER_ID"):
        os.environ["WORKER_ID"] += f"-{child.number}"
    its = Link(socket.socket(fileno=child.link), Tally(child.counts, child.number, child.workers))
    status: int = importlib.import_module("ocf.functions.runtime.serve").work(its)
    return status


if __name__ == "__main__":
    number, workers, state_dir, *descriptors = sys.argv[1:]
    raise SystemExit(_work(Child(int(number), int(workers), state_dir, *map(int, descriptors))))
