"""`/proc` of a tree of processes. Standard library only: the supervisor imports it.

A process may end while it is being read; that is not an error here.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # as in supervisor.py
if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample:
    """A tree at one moment, without its root. Sizes in bytes.

    `rss` counts shared pages once per process, so it is never too low. `memory` counts private pages, and shared pages
    of the process that has most of them, so a program started many times counts once. `tables` is the maximum of the
    page tables for the mapped address space.
    """

    # Not a dataclass: importing those would double the supervisor's start.
    __slots__ = ("memory", "pids", "rss", "tables", "threads")

    def __init__(self, pids: tuple[int, ...], threads: int, rss: int, memory: int, tables: int = 0) -> None:
        self.pids = pids
        self.threads = threads
        self.rss = rss
        self.memory = memory
        self.tables = tables


def _read(path: str) -> bytes:
    """Return the file's content, or b"" when its process has ended or may not be read."""
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


def _statm(pid: int) -> tuple[int, int, int]:
    """Return a process's resident bytes, how many of them are file or shared memory, and its mapped bytes."""
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) * _PAGE, int(fields[2]) * _PAGE, int(fields[0]) * _PAGE) if len(fields) > 2 else (0, 0, 0)


def _children_by_scan() -> dict[int, list[int]]:
    """Return the children of every process, by a scan of all (for kernels without CONFIG_PROC_CHILDREN)."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The name in parentheses may hold spaces and parentheses; the parent is the second field after the last
            # one.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(name))
    return children


def sample(root: int, *, at_most: int | None = None) -> Sample:
    """Return every descendant of `root`, zombies included, with their threads and resident memory.

    `at_most` ends the search once more than that many are found: a fork bomb should be killed, not counted.
    """
    have_children_file = os.path.exists(f"/proc/{root}/task/{root}/children")
    scanned = {} if have_children_file else _children_by_scan()
    found: list[int] = []
    threads = rss = private = shared = mapped = 0
    queue = [root]
    while queue and (at_most is None or len(found) <= at_most):
        pid = queue.pop()
        tasks = _tasks(pid)
        if pid != root:
            found.append(pid)
            threads += len(tasks)
            resident, common, space = _statm(pid)
            rss += resident
            mapped += space
            private += resident - common
            shared = max(shared, common)
        if have_children_file:
            for task in tasks:
                queue.extend(int(child) for child in _read(f"/proc/{pid}/task/{task}/children").split())
        else:
            queue.extend(scanned.get(pid, ()))
    # One entry of 8 bytes per page, and one page of them in every upper level for each process.
    return Sample(tuple(found), threads, rss, private + shared, mapped // 500 + len(found) * 16 * _PAGE)


def page_tables(pids: tuple[int, ...]) -> int:
    """Return the bytes of these processes' page tables, which no memory figure of theirs includes."""
    total = 0
    for pid in pids:
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith((b"VmPTE:", b"VmPMD:")):
                total += int(line.split()[1]) * 1024
    return total


def open_files(pids: tuple[int, ...]) -> int:
    """Return the number of descriptors these processes hold (0 before Linux 6.2, which does not report it cheaply)."""
    total = 0
    for pid in pids:
        try:
            total += os.stat(f"/proc/{pid}/fd").st_size
        except OSError:
            continue
    return total


def socket_inodes(pids: tuple[int, ...]) -> set[int]:
    """Return the inodes of these processes' sockets, as far as they may be read."""
    found = set()
    for pid, name in _descriptors(pids):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(int(link[8:-1]))
    return found


def _descriptors(pids: tuple[int, ...]) -> Iterator[tuple[int, str]]:
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            yield pid, name


def pss(pids: tuple[int, ...]) -> int:
    """Return proportional memory in bytes: shared pages are divided among their users. Milliseconds per process.

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


def unlinked_open_bytes(pids: tuple[int, ...]) -> int:
    """Return the bytes on disk of deleted files that are still open, which no scan of folders finds."""
    found: dict[tuple[int, int], int] = {}
    for pid, name in _descriptors(pids):
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if not status.st_nlink and stat.S_ISREG(status.st_mode):
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def cpu_wait_seconds(pids: tuple[int, ...]) -> float:
    """Return the longest time that one process was runnable without a CPU (proc_pid_schedstat, second field)."""
    waits = (_read(f"/proc/{pid}/schedstat").split() for pid in pids)
    return max((int(fields[1]) / 1e9 for fields in waits if len(fields) > 1), default=0.0)


def with_variable(variable: bytes) -> list[int]:
    """Return every readable process of the machine that has `NAME=value` in its environment."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if variable in _read(f"/proc/{pid}/environ").split(b"\0")]


def groups(pids: tuple[int, ...]) -> set[int]:
    """Return the process groups of `pids`."""
    found = set()
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if len(fields) > 2:
            found.add(int(fields[2]))
    return found
