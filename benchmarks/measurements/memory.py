"""What a running execution costs the execute function, its OpenCode excluded: 20 at once that wait, scripted agent."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import alive, pss
from tests.support.stack import Project, Stack, running_stack, until

COUNT = 20
MIB = 1024**2


async def one(stack: Stack, project: Project, count: int) -> tuple[float, float]:
    """MiB per running execution: of the function's processes, and of the supervisor that each has."""
    before = _function(stack)
    ids = [await project.submit([{"text": "up and running"}, {"sleep": 3600}]) for _ in range(count)]
    for execution in ids:
        await project.running(execution, "up and", timeout=90)
    grown = _function(stack) - before
    supervisors = [child for child in stack.children() if "supervisor" in " ".join(child.cmdline())]
    held = sum(pss(child.pid) for child in supervisors)
    for execution in ids:
        await project.client.cancel(execution)
    for execution in ids:
        await project.ended(execution, timeout=60)

    async def idle() -> bool:
        # One worker is kept; the others leave.
        return len(stack.workers()) == 1 and not alive(stack.children())

    await until(idle, what="every agent gone")
    return grown / count / MIB, held / count / MIB


def _function(stack: Stack) -> int:
    """Bytes of execute: the parent and its workers, of which one is idle when nothing runs."""
    parent = stack.pid("execute")
    assert parent is not None
    return pss(parent) + sum(pss(worker.pid) for worker in stack.workers())


async def measure(options: Options) -> list[Row]:
    """Rounds of as many as fit; the first is not kept: it loads what the first run loads."""
    count = 3 if options.quick else COUNT
    own, supervisors = [], []
    with (
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder,
        running_stack(Path(folder), MAX_CONCURRENT_TASKS=str(COUNT)) as stack,
    ):
        async with stack.project() as project:
            for turn in range(options.of(20) + 1):
                a, b = await one(stack, project, count)
                if turn:
                    own.append(a)
                    supervisors.append(b)
    note = f"growth of PSS over {count} executions that run at once, divided by {count}, after a first round"
    both = [a + b for a, b in zip(own, supervisors, strict=True)]
    return [
        Row("memory of execute per running execution", "MiB", own, target=Target("max", 40), note=note),
        Row("its supervisor process", "MiB", supervisors),
        Row("both", "MiB", both),
    ]
