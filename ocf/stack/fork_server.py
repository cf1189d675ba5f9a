"""`python -m ocf.stack.fork_server`: imports everything once, then forks each function.

Four Python processes that import the same libraries one by one need four times the time and the memory. Linux only. Its
parent is `ocf up` (ocf/stack/fork_client.py), at the other end of the socket that is its standard input (AF_UNIX,
SOCK_SEQPACKET; each message a JSON object). In: a `Request`, with a descriptor of the child's environment, which only
the child reads: it may hold keys that no other process may have in memory. A child that is a parent of workers leaves
reading it to them (`plain` is its own environment). Out: `{"started": pid}` for each request in order, and `{"ended":
pid, "status": number}` (negative: the signal). It ends with the connection, and its children end with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TypedDict

from ocf.events.adapters import s3
from ocf.functions.workers.forked_child import close_others, detach, exit_with
from ocf.functions.workers.sealed_environment import SEALED, unseal

#: Modules of its children; none of them connects, prints or starts a thread when imported.
_PRELOADED = (
    "ocf.functions.runtime.serve",
    "ocf.functions.workers.parent",
    *(
        f"ocf.functions.{name}.main"
        for name in (
            *("submit", "execute", "cancel", "cleanup", "session", "archive"),
            *("history", "trigger", "result", "gateway"),
        )
    ),
    "ocf.functions.dispatcher.main",
    "ocf.functions.runtime.setup",
    "uvloop",
    "uvicorn.protocols.http.auto",
    "uvicorn.lifespan.on",
)
#: Descriptor of a child's environment.
_SEALED = 3


class Request(TypedDict):
    """One child: `python -m module`, and its start directory. `name` is at most 15 bytes."""

    name: str
    module: str
    cwd: str
    log: str
    without_secrets: dict[str, str] | None


def main() -> None:
    """Serve until the end of input."""
    for module in _PRELOADED:
        importlib.import_module(module)
    s3.preload()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    parent = socket.socket(fileno=os.dup(0))
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _ignore)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([parent.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid, status in _ended():
                _send(parent, {"ended": pid, "status": status})
        if parent.fileno() in ready:
            data, descriptors, _, _ = socket.recv_fds(parent, 1 << 16, 1)
            if not data:
                return
            pid = _fork(json.loads(data), descriptors[0])
            os.close(descriptors[0])
            _send(parent, {"started": pid})


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal already woke the wakeup descriptor."""


def _send(parent: socket.socket, answer: dict[str, int]) -> None:
    parent.send(json.dumps(answer).encode())


def _ended() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _fork(request: Request, environment: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        exit_with(lambda: _become(request, environment, parent))
    return pid


def _become(request: Request, environment: int, parent: int) -> int:
    """Do what `exec` would have done, then run the module's `main`."""
    detach(request["name"], parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor, place in ((environment, _SEALED), (nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, place)
    close_others((_SEALED,))
    if request["without_secrets"] is None:
        unseal(_SEALED)
    else:
        os.environ.clear()
        os.environ.update(request["without_secrets"] | {SEALED: str(_SEALED)})
    os.chdir(request["cwd"])
    sys.argv = [request["module"]]
    importlib.import_module(request["module"]).main()
    return 0


if __name__ == "__main__":
    main()
