"""From the cancel event to the last descendant gone: 50 daemonised processes that ignore SIGTERM, and their parents."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import alive
from tests.support.stack import Project, Stack, running_stack, until

DAEMONS = 50


async def one(stack: Stack, project: Project) -> tuple[float, float]:
    """Seconds to the last process gone, and to the `cancelled` fact."""
    execution = await project.submit(
        [{"daemons": {"count": DAEMONS, "seconds": 3600}}, {"text": "up and running"}, {"sleep": 3600}]
    )
    await project.running(execution, "up and")

    async def all_up() -> bool:
        return len(stack.children()) > DAEMONS

    await until(all_up, what="daemons")
    tree = stack.children()
    said = asyncio.Event()
    async with project.bus.listen(f"ocf.evt.{project.name}.{execution}.cancelled") as facts:

        async def hear() -> float:
            await anext(facts)
            said.set()
            return time.perf_counter()

        listener = asyncio.ensure_future(hear())
        started = time.perf_counter()
        await project.client.cancel(execution)
        async with asyncio.timeout(30):
            while tree := alive(tree):
                await asyncio.sleep(0.005)
            gone = time.perf_counter() - started
            return gone, await listener - started


async def measure(options: Options) -> list[Row]:
    """One execution after the other."""
    gone, said = [], []
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_stack(Path(folder)) as stack:
        async with stack.project() as project:
            for turn in range(options.of(20) + 1):
                one_gone, one_said = await one(stack, project)
                if turn:
                    gone.append(one_gone)
                    said.append(one_said)
    note = "OpenCode's own abort leaves daemonised children alive, so there is no baseline; looked at every 5 ms"
    return [
        Row(f"cancel published to last of {DAEMONS} daemons gone", "s", gone, target=Target("p95", 1.0), note=note),
        Row("cancel published to `cancelled` heard", "s", said),
    ]
