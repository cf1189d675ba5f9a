"""`ocf list` of a stack whose history has 10,000 idle executions."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.measurements.start import _plain
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from tests.support.stack import OCF, running_stack

RECORDS = 10_000


def listed(folder: Path, *argv: str) -> float:
    """Milliseconds of an `ocf` call."""
    started = time.perf_counter()
    subprocess.run([OCF, *argv], env={**_plain(), "OCF_GATEWAY": folder.read_text()}, capture_output=True, check=True)
    return 1000 * (time.perf_counter() - started)


async def measure(options: Options) -> list[Row]:
    """`ocf list` and, to see what of it is Python starting, `ocf --help`, in turn."""
    count = 200 if options.quick else RECORDS
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as top, running_stack(Path(top)) as stack:
        async with stack.project("default") as project:
            executions = NatsBucket(project.bus, subjects.EXECUTIONS_BUCKET)
            start = datetime.now(UTC) - timedelta(days=1)
            for number in range(0, count, 100):
                at = start + timedelta(seconds=number)
                await asyncio.gather(*(_make(executions, at, each) for each in range(number, number + 100)))
        gateway = Path(top) / "gateway"
        gateway.write_text(stack.answer["gateway"])
        # The records were written behind the functions' back: no fact has made rows of them.
        rebuild = [OCF, "--data-dir", stack.data_dir, "history", "rebuild"]
        await asyncio.to_thread(subprocess.run, rebuild, env=_plain(), check=True, capture_output=True)
        ours, bare = [], []
        for turn in range(options.of(20) + 1):
            pair = (
                await asyncio.to_thread(listed, gateway, "list"),
                await asyncio.to_thread(listed, gateway, "--help"),
            )
            if turn:
                ours.append(pair[0])
                bare.append(pair[1])
    return [
        Row(f"`ocf list`, {count} executions", "ms", ours, bare, "`ocf --help`", Target("p50", 400)),
    ]


async def _make(executions: NatsBucket, at: datetime, number: int) -> None:
    execution = str(uuid.uuid4())
    given = {"execution_id": execution, "project_id": "default", "submitted_at": at, "updated_at": at, "ended_at": at}
    state = {"state": State.COMPLETED, "timeout_seconds": 60, "title": f"Task {number}"}
    record = Record.model_validate({**given, **state})
    await executions.create(
        ExecutionRef("default", execution).record_key, record.model_dump_json(exclude_defaults=True).encode()
    )
