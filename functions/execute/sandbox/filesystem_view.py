"""File system view of a tree with a user of its own. Standard library only: `supervisor.py` imports it.

In a mount namespace of the supervisor's own, before its Landlock domain (which forbids mounts):

- `/proc` is mounted with `hidepid`, so other users' processes and their command lines are hidden;
- a folder that is closed to other users (root's home, say) on the way to a path the agent needs is covered by an empty
  one, in which only those paths are put back. Nothing on the disk changes.
"""

from __future__ import annotations

import os
import stat

from ocf.functions.core import syscalls

_NOTHING_SPECIAL = syscalls.MS_NOSUID | syscalls.MS_NODEV


def closed(path: str) -> str | None:
    """Return the first folder on the way to `path` that other users may not pass through; follows links."""
    for spelled in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        parts = spelled.split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count]) or "/"
            if not os.stat(folder).st_mode & stat.S_IXOTH:
                return folder
    return None


def enter(paths: list[str]) -> None:
    """Let this process and its children see `paths`, and only processes of their own user.

    Raises:
        OSError: the kernel refused (it takes CAP_SYS_ADMIN), or a path does not exist.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    covered: dict[str, list[tuple[str, int]]] = {}
    for path in dict.fromkeys(map(os.path.realpath, paths)):
        folder = closed(path)
        if folder == "/":
            raise OSError("the root directory is closed to other users")
        if folder is not None:
            covered.setdefault(folder, []).append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
    syscalls.mount("proc", "/proc", "proc", _NOTHING_SPECIAL | syscalls.MS_NOEXEC, "hidepid=2")
    for folder, inside in covered.items():
        syscalls.mount("tmpfs", folder, "tmpfs", _NOTHING_SPECIAL, "mode=0711,size=1m")
        for path, fd in sorted(inside):
            if not os.path.lexists(path):
                _put_back(path, fd, folder)
            os.close(fd)


def _put_back(path: str, fd: int, below: str) -> None:
    parent = os.path.dirname(path)
    missing = []
    while parent != below and not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(missing):
        os.mkdir(folder, 0o711)
        os.chmod(folder, 0o711)  # noqa: S103 - to pass through, not to list
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    syscalls.mount(f"/proc/self/fd/{fd}", path, "", syscalls.MS_BIND | syscalls.MS_REC)
