"""Start of a worker: forked from the parent, or as a new process where system libraries do not survive a fork."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ocf.functions.workers.forked_child import close_others, detach, exit_with
from ocf.functions.workers.metrics_sum import Tally
from ocf.functions.workers.parent_channel import Link
from ocf.functions.workers.sealed_environment import unseal, without_secrets


class Child(NamedTuple):
    """Arguments of a worker. The last three are descriptors: the link, the environment, and the shared metrics."""

    number: int
    worker_count: int
    state_dir: str
    link: int
    sealed: int
    counts: int


def start(child: Child, blocked: Collection[signal.Signals], *, fork: bool = sys.platform == "linux") -> int:
    """Start a worker; return its pid.

    Args:
        child: Arguments of the worker.
        blocked: Signals with handlers in the parent, which are blocked during the fork so that none is lost.
        fork: Fork instead of starting a new process.
    """
    if not fork:
        command = (sys.executable, "-m", __name__, *map(str, child))
        process = subprocess.Popen(command, env=without_secrets(os.environ), pass_fds=child[3:], start_new_session=True)
        process.returncode = 0  # the parent waits for the process, not this object
        return process.pid
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        pid = os.fork()
        if pid == 0:
            exit_with(lambda: _become(child, blocked, parent))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    return pid


def _become(child: Child, blocked: Collection[signal.Signals], parent: int) -> int:
    detach("ocf-worker", parent)
    for number in blocked:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    close_others(child[3:])  # otherwise this process would hold other workers' connections open
    return _work(child)


def _work(child: Child) -> int:
    """Run the worker with its own state folder, and its own name if `WORKER_ID` is set."""
    unseal(child.sealed)
    os.environ["STATE_DIR"] = str(Path(child.state_dir) / f"worker-{os.getpid()}")
    if os.environ.get("WORKER_ID"):
        os.environ["WORKER_ID"] += f"-{child.number}"
    its = Link(socket.socket(fileno=child.link), Tally(child.counts, child.number, child.worker_count))
    status: int = importlib.import_module("ocf.functions.runtime.serve").work(its)
    return status


if __name__ == "__main__":
    number, worker_count, state_dir, *descriptors = sys.argv[1:]
    raise SystemExit(_work(Child(int(number), int(worker_count), state_dir, *map(int, descriptors))))
