"""From the first executions to the last of many: does the time, the memory or the room of one grow with their number?

Batches of 100 of the scripted agent, ten at a time, each read to its archive. Nothing is deleted in between.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import ROWS, component_memory
from ocf.events import subjects
from tests.support.stack import Project, Stack, running_stack

BATCH = 100
MOST = 1000
#: It stops after this long, wherever it is, and says how far it came.
SECONDS = 240.0
STREAMS = (subjects.COMMANDS, subjects.EVENTS, subjects.OUTPUT, f"KV_{subjects.EXECUTIONS_BUCKET}")


async def batch(project: Project, count: int) -> float:
    """Seconds per execution of a batch, from the first submit to the last archive."""
    left: set[str] = set()
    started = time.perf_counter()
    async with project.bus.listen(f"ocf.evt.{project.name}.*.archived") as facts:
        left |= set(await asyncio.gather(*(project.submit("hello") for _ in range(count))))
        early: set[str] = set()
        async with asyncio.timeout(300):
            async for fact in facts:
                early.add(fact.subject.split(".")[3])
                if left <= early:
                    break
    return (time.perf_counter() - started) / count


async def room(project: Project) -> dict[str, tuple[int, int]]:
    """Bytes and messages of each stream."""
    found = {}
    for stream in STREAMS:
        state = (await project.bus.js.stream_info(stream)).state
        found[stream] = (state.bytes, state.messages)
    return found


def processor(stack: Stack) -> dict[str, float]:
    """Processor seconds of each component so far; what an execution starts is its own, and not in it."""
    found = {}
    for name in ROWS:
        pid = stack.pid(name)
        assert pid is not None, f"{name} does not run"
        found[name] = sum(psutil.Process(pid).cpu_times()[:2])
    return found


async def _settled(stack: Stack) -> dict[str, int]:
    """Memory once the last batch's processes are gone."""
    await asyncio.sleep(1)
    return component_memory(stack)


async def measure(options: Options) -> list[Row]:
    """As many batches as fit into the time."""
    size, most = (5, 15) if options.quick else (BATCH, options.executions or MOST)
    seconds = math.inf if options.executions else SECONDS
    times: list[float] = []
    memory: dict[str, list[float]] = {}
    bytes_: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    messages: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as top, running_stack(Path(top)) as stack:
        async with stack.project() as project:
            await batch(project, size if options.quick else 20)  # imports, connections, first use
            before, until = await room(project), time.perf_counter() + seconds
            spent = processor(stack)
            done = 0
            while done < most and (not times or time.perf_counter() + times[-1] * size / 1000 < until):
                times.append(1000 * await batch(project, size))
                done += size
                for name, value in (await _settled(stack)).items():
                    memory.setdefault(name, []).append(value / 1024**2)
                after = await room(project)
                for name in STREAMS:
                    bytes_.setdefault(name, []).append((after[name][0] - before[name][0]) / size)
                    messages[name] = (after[name][1] - before[name][1]) / size
                before = after
                now = processor(stack)
                for name, seconds in now.items():
                    cpu.setdefault(name, []).append(1000 * (seconds - spent[name]) / size)
                spent = now
                sys.stderr.write(f"  {done}: {times[-1]:.0f} ms per execution\n")
    flat = Target("spread", 0.15)
    note = f"one sample per batch of {size}, {done} executions in all; `spread`: last tenth against first"
    rows = [Row("time per execution, ten at a time", "ms", times, target=flat, note=note)]
    rows += [Row(f"memory of {name}", "MiB", values, target=flat) for name, values in memory.items()]
    rows += [Row(f"processor time of {name} per execution", "ms", values) for name, values in cpu.items()]
    for name, values in bytes_.items():
        said = f"{messages[name]:.1f} messages per execution stay"
        rows.append(Row(f"{name}: bytes per execution", "B", values, target=flat, note=said))
    return rows
