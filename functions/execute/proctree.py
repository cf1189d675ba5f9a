"""What `/proc` says about a tree of processes. Standard library only: the supervisor imports it.

A process that ends while it is being read is simply not there any more; that is no error here.
"""

from __future__ import annotations

import os
import stat

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample:
    """A tree at one moment, without its root. Sizes in bytes.

    `rss` counts shared pages once per process, so it is never too low; `memory` counts private pages, and shared ones
    of the process that has most of them, so a program started many times counts once.
    """

    # Not a dataclass: importing those would double the supervisor's start.
    __slots__ = ("memory", "pids", "rss", "threads")

    def __init__(self, pids: tuple[int, ...], threads: int, rss: int, memory: int) -> None:
        self.pids = pids
        self.threads = threads
        self.rss = rss
        self.memory = memory


def _read(path: str) -> bytes:
    """The file, or nothing when its process has ended or may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _statm(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and how many of them are of files or shared memory."""
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) * _PAGE, int(fields[2]) * _PAGE) if len(fields) > 2 else (0, 0)


def _children_by_scan() -> dict[int, list[int]]:
    """Children of every process, from a scan of all of them (for kernels without CONFIG_PROC_CHILDREN)."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The name in parentheses may hold spaces and parentheses: the parent is the second field after the last.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(name))
    return children


def sample(root: int, *, at_most: int | None = None) -> Sample:
    """Every descendant of `root`, zombies included, with their threads and resident memory.

    `at_most` ends the search once more than that many are found: a fork bomb should not be counted, but killed.
    """
    have_children_file = os.path.exists(f"/proc/{root}/task/{root}/children")
    scanned = {} if have_children_file else _children_by_scan()
    found: list[int] = []
    threads = rss = private = shared = 0
    queue = [root]
    while queue and (at_most is None or len(found) <= at_most):
        pid = queue.pop()
        tasks = _tasks(pid)
        if pid != root:
            found.append(pid)
            threads += len(tasks)
            resident, common = _statm(pid)
            rss += resident
            private += resident - common
            shared = max(shared, common)
        if have_children_file:
            for task in tasks:
                queue.extend(int(child) for child in _read(f"/proc/{pid}/task/{task}/children").split())
        else:
            queue.extend(scanned.get(pid, ()))
    return Sample(tuple(found), threads, rss, private + shared)


def pss(pids: tuple[int, ...]) -> int:
    """Proportional memory in bytes: shared pages are divided among who shares them. Milliseconds per process.

    A process that may not be read that closely (another owner) counts with its resident memory.
    """
    total = 0
    for pid in pids:
        rollup = _read(f"/proc/{pid}/smaps_rollup")
        line = next((line for line in rollup.splitlines() if line.startswith(b"Pss:")), None)
        if line is not None:
            total += int(line.split()[1]) * 1024
            continue
        total += _statm(pid)[0]
    return total


def nameless_bytes(pids: tuple[int, ...]) -> int:
    """Bytes on disk of files that were removed and are still open: no look at a folder finds them."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                status = os.stat(f"{folder}/{name}")
            except OSError:
                continue
            if not status.st_nlink and stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def starved_seconds(pids: tuple[int, ...]) -> float:
    """How long the one that waited longest was ready to run and had no processor (proc_pid_schedstat, second field)."""
    waits = (_read(f"/proc/{pid}/schedstat").split() for pid in pids)
    return max((int(fields[1]) / 1e9 for fields in waits if len(fields) > 1), default=0.0)


def with_variable(variable: bytes) -> list[int]:
    """Every process of the machine that was started with `NAME=value` in its environment and may be read."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if variable in _read(f"/proc/{pid}/environ").split(b"\0")]


def groups(pids: tuple[int, ...]) -> set[int]:
    """The process groups that `pids` are in."""
    found = set()
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if len(fields) > 2:
            found.add(int(fields[2]))
    return found
