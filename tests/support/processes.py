"""Find the processes of a running `ocf up`, and read processes that may end meanwhile."""

from __future__ import annotations

from contextlib import suppress

import psutil

#: Servers by a word of their command line; functions by the name that the fork server gives them.
_SERVERS = {"nats-server": "nats", "weed": "s3", "aimock": "model", "ocf.stack.fork_server": "fork-server"}
_OURS = "ocf-"


def parts(up: psutil.Process) -> dict[str, psutil.Process]:
    """The stack's processes by their name in its table, and the `fork-server`; what has just died is left out."""
    found = {}
    # The fork server's children are the functions; theirs are no part of the stack.
    near = up.children()
    near += [grandchild for child in tuple(near) for grandchild in _children(child)]
    for process in near:
        with suppress(psutil.NoSuchProcess):
            name = _name(process)
            if name and alive(process):
                found[name] = process
    return found


def alive(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie does not, nor does one that has ended since it was listed."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> str:
    """Return the words of a process; none when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(process.children())
    return []


def _name(process: psutil.Process) -> str | None:
    said = process.name()
    if said.startswith(_OURS):
        return said.removeprefix(_OURS)
    words = " ".join(process.cmdline())
    return next((name for word, name in _SERVERS.items() if word in words), None)
