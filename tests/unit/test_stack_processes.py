"""A child process of the embedded stack when the machine has no room."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from ocf.stack import processes
from ocf.stack.processes import Child, Spec

# Ends with 1 at its first start and stays from then on.
_SCRIPT = "test -e ran && exec sleep 60; touch ran; exit 1"


def _say(_line: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """A child that ends once, whose lines cannot be written."""

    async def ready(_child: Child) -> None:
        pass

    monkeypatch.setattr(Child, "_ready", ready)
    monkeypatch.setattr(processes, "_RESTART_FIRST", 0.01)
    argv = ("/bin/sh", "-c", _SCRIPT)
    return Child(Spec("child", argv, dict(os.environ), tmp_path, tmp_path / "log", stage=1), _say)


async def _start_and_stop(child: Child, restarts: int) -> None:
    """Start it, wait until it was started again so often, and stop it."""
    await child.start()
    async with asyncio.timeout(10):
        while child.restarts < restarts or child.pid is None:
            await asyncio.sleep(0.01)
    pid = child.pid
    await child.stop()
    assert child.restarts == restarts
    assert child.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_child_is_restarted_and_stopped_when_nothing_can_be_printed(child: Child) -> None:
    """On a full disk it is restarted all the same, and `stop` ends it."""
    await _start_and_stop(child, restarts=1)


async def test_a_restart_for_which_there_is_no_process_is_tried_again(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN of a start is not the last word."""
    spawn, calls = Child._spawn, []

    async def scarce(one: Child) -> None:
        calls.append(one)
        if len(calls) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        await spawn(one)

    monkeypatch.setattr(Child, "_spawn", scarce)
    await _start_and_stop(child, restarts=2)


async def test_stop_ends_the_process_after_its_watch_failed(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error of the watch is not raised by `stop`."""

    async def broken(_child: Child) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Child, "_watch", broken)
    (child.spec.cwd / "ran").touch()
    await _start_and_stop(child, restarts=0)
