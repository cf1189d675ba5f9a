"""The watchdogs, with a clock that moves when told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ocf.events.lifecycle import Reason, Step
from ocf.functions.execute.attempt import watchdog
from ocf.functions.execute.attempt.stop_signal import StopReason, StopSignal
from ocf.functions.execute.attempt.watchdog import Activity, Bounds, watch
from ocf.functions.execute.sandbox import procfs
from tests.support.clock import ManualClock

NEVER = Path("/nonexistent")


class Watched:
    """A watchdog at work."""

    def __init__(self, bounds: Bounds, workspace: Path = NEVER) -> None:
        self.clock = ManualClock()
        self.stop_signal = StopSignal()
        self.activity = Activity(self.clock)
        self.task = asyncio.create_task(
            watch(bounds, self.stop_signal, self.clock, self.activity, lambda: (workspace,))
        )

    async def run(self, seconds: int, *, active: bool = False) -> StopReason | None:
        """Let time pass, a second at a time; the verdict, once there is one."""
        await asyncio.sleep(0)
        for _ in range(seconds):
            if active:
                self.activity.note()
            await self.clock.advance(1)
            while not (self.clock.sleepers or self.stop_signal.stop_reason):
                await asyncio.sleep(0.001)  # it looks at the workspace, in a thread
        return self.stop_signal.stop_reason


def bounds(wall: int = 1000, silence: int = 1000, workspace: int = 10**12) -> Bounds:
    return Bounds(wall_left=wall, wall=wall, silence=silence, workspace=workspace)


async def test_the_wall_clock_runs_however_busy_it_is() -> None:
    """Timed out when the time is up, not before."""
    watched = Watched(bounds(wall=30, silence=5))
    assert await watched.run(29, active=True) is None
    stop_reason = await watched.run(2, active=True)
    assert stop_reason is not None
    assert stop_reason.step is Step.TIME_OUT
    await watched.task


async def test_a_later_attempt_has_what_is_left() -> None:
    """`wall_left` counts, and the message names the whole bound."""
    watched = Watched(Bounds(wall_left=3, wall=60, silence=1000, workspace=10**12))
    stop_reason = await watched.run(5)
    assert stop_reason is not None
    assert "60 s" in stop_reason.message


async def test_silence_is_counted_from_the_last_activity() -> None:
    """Activity puts it off; afterwards it counts anew."""
    watched = Watched(bounds(silence=10))
    assert await watched.run(60, active=True) is None
    assert await watched.run(8) is None
    stop_reason = await watched.run(3)
    assert stop_reason is not None
    assert stop_reason.reason is Reason.STALLED


async def test_waiting_for_a_person_is_not_silence() -> None:
    """While a question is open the silence watchdog rests."""
    watched = Watched(bounds(silence=10))
    watched.activity.waiting = True
    assert await watched.run(100) is None
    watched.task.cancel()


async def test_the_first_verdict_stands() -> None:
    """A judge hears everybody and believes the first."""
    stop_signal = StopSignal()
    first, second = StopReason(Step.CANCEL, "first"), StopReason(Step.COMPLETE)
    stop_signal.decide(first)
    stop_signal.decide(second)
    assert stop_signal.stop_reason is first
    assert await stop_signal.wait() is first


async def test_a_workspace_that_grows_too_large_ends_the_run(tmp_path: Path) -> None:
    """Looked at every ten seconds; the verdict is `output_limit`."""
    watched = Watched(bounds(workspace=10_000), tmp_path)
    assert await watched.run(12) is None
    (tmp_path / "big").write_bytes(b"x" * 50_000)
    await watched.run(12)
    stop_reason = await asyncio.wait_for(watched.stop_signal.wait(), 5)
    assert stop_reason.reason is Reason.OUTPUT_LIMIT


async def test_a_disk_that_gets_fuller_is_looked_at_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the bound gone from the disk: the walk does not wait for its ten seconds; less does."""
    free = [10**9]
    monkeypatch.setattr(watchdog, "_free", lambda roots: free[0])
    watched = Watched(bounds(workspace=10_000), tmp_path)
    assert await watched.run(2) is None
    (tmp_path / "big").write_bytes(b"x" * 50_000)
    free[0] -= 2_000
    assert await watched.run(2) is None
    free[0] -= 50_000
    await watched.run(1)
    stop_reason = await asyncio.wait_for(watched.stop_signal.wait(), 5)
    assert stop_reason.reason is Reason.OUTPUT_LIMIT


def test_a_removed_file_that_is_still_open_is_counted(tmp_path: Path) -> None:
    """An agent could fill the disk with files that no folder shows."""
    before = procfs.unlinked_open_bytes((os.getpid(),))
    with (tmp_path / "ghost").open("wb") as ghost:
        (tmp_path / "ghost").unlink()
        ghost.write(b"x" * 100_000)
        ghost.flush()
        assert procfs.unlinked_open_bytes((os.getpid(),)) - before >= 100_000
    assert procfs.unlinked_open_bytes((os.getpid(),)) == before


async def test_folders_and_names_alone_fill_a_disk_too(tmp_path: Path) -> None:
    """A workspace of nothing but empty folders is found too large, by what they take."""
    for number in range(200):
        (tmp_path / str(number)).mkdir()
    watched = Watched(bounds(workspace=50_000), tmp_path)
    await watched.run(12)
    stop_reason = await asyncio.wait_for(watched.stop_signal.wait(), 5)
    assert stop_reason.reason is Reason.OUTPUT_LIMIT
