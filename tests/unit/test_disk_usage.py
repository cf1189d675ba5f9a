"""How much an agent has on the disk, however it hides it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocf.functions.execute.sandbox import disk_usage
from ocf.functions.execute.sandbox.disk_usage import DiskUsageScan
from tests.support.privileges import without_privileges


@pytest.fixture(autouse=True)
def _nothing_deep_stays(tmp_path: Path) -> Iterator[None]:
    yield
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # pytest's own clean-up would recurse too deep


def looked(root: Path, limit: int = 10**12) -> DiskUsageScan:
    look = DiskUsageScan(limit)
    look.scan(root)
    return look


def in_vain(*_: object, **__: object) -> None:
    """The mode is set back at once."""


def branch(root: Path, depth: int, name: str) -> int:
    """The descriptor of the innermost of `depth` folders in one another; the caller closes it."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        fd, above = os.open(name, os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    return fd


def fill(fd: int, size: int) -> None:
    with os.fdopen(os.open("big", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(b"x" * size)


def test_size_on_disk_counts_blocks_and_follows_no_link(tmp_path: Path) -> None:
    """A sparse file costs what it takes, a link to a large folder its name, a vanished folder nothing."""
    (tmp_path / "real").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(10**12)
    os.symlink("/usr", tmp_path / "usr")
    assert 100_000 <= looked(tmp_path).size < 1_000_000
    assert looked(tmp_path / "none").size == 0


def test_a_count_stops_when_it_knows_enough(tmp_path: Path) -> None:
    """It does not walk a tree to its end that is too large already."""
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_bytes(b"x" * 8192)
    look = looked(tmp_path, 10_000)
    assert look.over == "the workspace is larger than 10000 bytes"
    assert look.entries < 40


def test_files_below_a_path_too_long_to_open_count(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, Python's recursion and the descriptors that are held: all of it, on every branch."""
    root = tmp_path / "root"
    root.mkdir()
    inner = branch(root, 1200, "a" * 20)
    fill(inner, 300_000)
    os.mkdir("beside", dir_fd=inner)
    os.close(inner)
    (root / "last").mkdir()
    (root / "last" / "more").write_bytes(b"x" * 100_000)
    before = len(os.listdir("/proc/self/fd"))
    look = looked(root)
    assert look.size >= 400_000
    assert look.entries == 1200 + 2 + 2
    assert looked(root, 250_000).over is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_locked_folder_is_looked_into_and_locked_again(tmp_path: Path) -> None:
    """As a user like any other: what a folder without a permission bit holds counts, and the folder stays as it was."""
    (tmp_path / "locked" / "further").mkdir(parents=True)
    (tmp_path / "locked" / "further" / "big").write_bytes(b"x" * 100_000)
    (tmp_path / "locked" / "further").chmod(0o300)
    (tmp_path / "locked").chmod(0)
    assert without_privileges(lambda: looked(tmp_path)).size >= 100_000
    assert (tmp_path / "locked").stat().st_mode & 0o777 == 0
    assert (tmp_path / "locked" / "further").stat().st_mode & 0o777 == 0o300


@pytest.mark.parametrize("mode", [0o444, 0o600])
def test_a_folder_that_opens_and_denies_its_entries_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Without the x bit a folder lists its names only: its files count all the same, however deep, and it stays so."""
    monkeypatch.setattr(disk_usage, "_OPEN", 1)
    inner = tmp_path / "listed" / "listed" / "listed"
    inner.mkdir(parents=True)
    (inner / "big").write_bytes(b"x" * 100_000)
    folders = (inner, inner.parent, inner.parent.parent)
    for folder in folders:
        (folder / "beside").mkdir()
    for folder in folders:
        folder.chmod(mode)
    assert without_privileges(lambda: looked(tmp_path)).size >= 100_000
    assert [folder.stat().st_mode & 0o777 for folder in reversed(folders)] == [mode] * 3
    monkeypatch.setattr(os, "fchmod", in_vain)
    assert without_privileges(lambda: looked(tmp_path)).over == "the workspace has folders that cannot be opened"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # on a shared volume another user's folder
    assert without_privileges(lambda: looked(tmp_path)).over is None


def test_locked_folder_counts_as_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that locks faster than it is unlocked has something to hide."""
    (tmp_path / "locked").mkdir(mode=0)
    monkeypatch.setattr(os, "chmod", in_vain)
    look = without_privileges(lambda: looked(tmp_path))
    assert look.over == "the workspace has folders that cannot be opened"


def test_somebody_elses_locked_folder_is_not_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared volume others may keep folders to themselves."""
    (tmp_path / "theirs").mkdir(mode=0)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert without_privileges(lambda: looked(tmp_path)).over is None


def test_entries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names alone use up a file system."""
    monkeypatch.setattr(disk_usage, "MAX_ENTRIES", 50)
    for number in range(60):
        (tmp_path / str(number)).touch()
    assert looked(tmp_path).over == "the workspace has more than 50 files and folders"
