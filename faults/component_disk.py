"""A disk for every part: an ext4 image of its own, that can be filled, and slowed down.

Slow: every write waits for the device (`remount,sync`), and the device takes a few writes a second from the part's
processes (block throttling of cgroup 1). Buffered writes would never feel a slow device. No journal: its thread would
write in the part's place.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.net import call

_BLKIO = Path("/sys/fs/cgroup/blkio")
_FILLER = ".filler"


@dataclass
class Disk:
    """A mounted image."""

    name: str
    path: Path
    group: Path
    device: str

    @classmethod
    def make(cls, folder: Path, name: str, megabytes: int) -> Disk:
        """Create and mount it at `folder`/`name`."""
        image, path = folder / f"{name}.img", folder / name
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        call("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", str(image))
        path.mkdir()
        call("mount", "-o", "loop,noatime", str(image), str(path))
        (path / "lost+found").rmdir()
        (path / "tmp").mkdir()
        loop = call("findmnt", "-no", "SOURCE", str(path)).strip()
        device = (Path("/sys/block") / Path(loop).name / "dev").read_text().strip()
        return cls(name, path, _BLKIO / f"ocf-faults-{os.getppid()}-{folder.name}-{name}", device)

    def fill(self) -> None:
        """Leave no byte. Sizes go down by halves, so that the last block goes too."""
        filler = self.path / _FILLER
        filler.mkdir(exist_ok=True)
        size = 1 << 30
        number = 0
        while size >= 4096:
            number += 1
            with (filler / str(number)).open("wb") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Give the room back."""
        filler = self.path / _FILLER
        for file in filler.iterdir() if filler.is_dir() else ():
            file.unlink()
        if filler.is_dir():
            filler.rmdir()

    def slow(self, pid: int, writes: int) -> None:
        """At most `writes` a second from that process and those below it, each of them waited for."""
        self.group.mkdir(exist_ok=True)
        (self.group / "blkio.throttle.write_iops_device").write_text(f"{self.device} {writes}")
        for each in _tree(pid):
            (self.group / "cgroup.procs").write_text(str(each))
        call("mount", "-o", "remount,sync", str(self.path))

    def fast(self) -> None:
        """As before."""
        call("mount", "-o", "remount,async", str(self.path))
        if self.group.is_dir():
            (self.group / "blkio.throttle.write_iops_device").write_text(f"{self.device} 0")
            for pid in (self.group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    (_BLKIO / "cgroup.procs").write_text(pid)
            self.group.rmdir()

    def clutter(self) -> list[str]:
        """Files and folders in its `tmp` and `state`, which should be empty when nothing runs: of the state folders of
        workers that are idle, what is in them."""
        folders = [self.path / "tmp", self.path / "state", *(self.path / "state").glob("worker-*")]
        found = []
        for folder in folders:
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry not in folders and not (entry.is_dir() and not any(entry.iterdir())):
                    found.append(f"{self.name}/{entry.relative_to(self.path)}")
        return sorted(found)


def unmount(folder: Path) -> None:
    """Take every disk below `folder` away, whoever still uses it."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in mounted:
        if path.startswith(f"{folder}/"):
            call("umount", "--lazy", path)


def _tree(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
