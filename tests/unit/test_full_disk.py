"""What a full disk may cost: log lines, and the workspace of a run; never an event, never the end of a run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.attempt.artifacts import ArtifactWriter
from ocf.functions.observability import logs
from ocf.functions.runtime.function import Function
from tests.support.clock import ManualClock
from tests.support.handlers import post
from tests.support.parts import bench


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """Refused lines are counted; the next that gets through says how many were lost, each on a line of its own."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writes = iter([os.write, full, full])
    log = logs.LossyLogWriter(descriptor, lambda fd, data: next(writes, os.write)(fd, data))
    log.write('{"n": 1}\n')
    log.write('{"n": 2}\n')
    log.write('{"n": 3}\n')
    log.write('{"n": 4}\n')
    log.flush()
    os.close(descriptor)
    said = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("n", line.get("lines")) for line in said] == [1, 2, 4]
    assert said[1]["action"] == "logs.lost"


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path) -> None:
    """The disk took half a line: what comes later does not stick to it."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writes = iter([lambda fd, data: os.write(fd, data[:4]), full])
    log = logs.LossyLogWriter(descriptor, lambda fd, data: next(writes, os.write)(fd, data))
    log.write('{"n": 1}\n')
    log.write('{"n": 2}\n')
    os.close(descriptor)
    torn, lost, whole = path.read_text().splitlines()
    assert (torn, json.loads(lost)["lines"], json.loads(whole)) == ('{"n"', 1, {"n": 2})


async def test_a_handler_on_a_full_disk_is_asked_again() -> None:
    """An OSError says nothing about the event: 503, which the dispatcher repeats."""

    async def handler(*_: object) -> None:
        full()

    function, b = Function(handler), bench()
    await function.start(b.deps)
    assert (await function.respond(post(b.submit()))).status_code == 503


class Mine:
    """A lease that is never in doubt."""

    held = True

    def invalidate(self) -> None:
        """Nobody else writes."""

    async def wait_until_held(self) -> bool:
        return True


async def test_a_workspace_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    """No room for the artifacts: the run ends as it ended, and a gap says what is not there."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    said: list[Draft] = []

    async def emit(draft: Draft) -> None:
        said.append(draft)

    context = SimpleNamespace(deps=SimpleNamespace(clock=ManualClock()))
    artifact_writer = ArtifactWriter(
        cast(Any, context), cast(Any, SimpleNamespace(session_id=None)), in_the_way / "artifacts", Mine()
    )
    kept = await artifact_writer.store(cast(Any, None), None, emit, 1.0)
    assert kept.objects == ()
    assert [draft.type for draft in said] == [ChunkType.GAP]
