"""What an agent leaves on the disk is removed, however it was made, and can never keep a worker from starting."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocf.events.execution_ref import ExecutionRef
from ocf.functions.core import syscalls
from ocf.functions.execute.context import open_context
from ocf.functions.workspace import discard_tree
from ocf.functions.workspace import safe_tree as trees
from tests.support.parts import bench
from tests.support.privileges import without_privileges

EXECUTION = "7c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a33"


@pytest.fixture(autouse=True)
def _nothing_deep_stays(tmp_path: Path) -> Iterator[None]:
    yield
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # pytest's own clean-up would recurse too deep


def deep(folder: Path) -> None:
    """Directories in one another, deeper than Python recurses and longer than a path may be."""
    folder.mkdir(parents=True)
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a" * 8, dir_fd=fd)
        fd, above = os.open("a" * 8, os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    os.close(fd)


async def test_a_worker_starts_whatever_its_predecessor_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots and executions of a killed process, with a tree deeper than Python recurses: gone soon after the start,
    whichever project's. What is not a worker's stays."""
    monkeypatch.setattr(syscalls, "protect_self", lambda: None)
    deep(tmp_path / "slots" / "one" / "workspace")
    deep(tmp_path / EXECUTION / "base")
    deep(tmp_path / ExecutionRef("p", EXECUTION).folder / "base")
    (tmp_path / "theirs").mkdir()
    async with open_context(bench(STATE_DIR=tmp_path, SANDBOX="off").deps):
        await _left(tmp_path, "slots", "theirs")
        await _left(tmp_path / "slots")


async def test_workers_below_one_parent_leave_each_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead worker left is removed by the next that starts; the folder of one that lives is not touched, and goes
    when it leaves."""
    monkeypatch.setattr(syscalls, "protect_self", lambda: None)
    alive, dead, own = (tmp_path / f"worker-{pid}" for pid in (3_999_999_997, 3_999_999_998, 3_999_999_999))
    deep(dead / ExecutionRef("p", EXECUTION).folder / "base")
    async with open_context(bench(STATE_DIR=alive, SANDBOX="off").deps):
        deep(alive / ExecutionRef("q", EXECUTION).folder / "base")
        async with open_context(bench(STATE_DIR=own, SANDBOX="off").deps):
            await _left(tmp_path, alive.name, own.name)
            await _left(alive, ExecutionRef("q", EXECUTION).folder, "slots")
    await _left(tmp_path)


async def _left(folder: Path, *names: str) -> None:
    """Wait until there is nothing else, but for what workers have in common."""
    async with asyncio.timeout(20):
        while sorted({*os.listdir(folder)} - {"users", "project"}) != sorted(names):
            await asyncio.sleep(0.01)


async def test_undeletable_leftovers_do_not_prevent_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stays is for the log; the worker comes up."""
    monkeypatch.setattr(syscalls, "protect_self", lambda: None)
    monkeypatch.setattr(trees, "remove_tree", _cannot)
    (tmp_path / "slots").mkdir()
    async with open_context(bench(STATE_DIR=tmp_path, SANDBOX="off").deps) as context:
        assert not context.slots.ready


async def _cannot(path: Path) -> None:
    raise OSError(f"{path} is busy")


def test_a_locked_folder_is_no_hiding_place(tmp_path: Path) -> None:
    """As a user like any other, not as root: folders without a single permission bit go, with what is in them."""
    inner = tmp_path / "slot" / "workspace" / "locked" / "further"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"x" * 10_000)
    inner.chmod(0)
    inner.parent.chmod(0)
    without_privileges(lambda: asyncio.run(discard_tree(tmp_path / "slot")))
    assert not (tmp_path / "slot").exists()
