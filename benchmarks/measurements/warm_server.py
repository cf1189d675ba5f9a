"""Cost of the next warm server: lag of words while it boots, the first run after `ocf up`, memory."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.measurement import Options, Row, Target
from benchmarks.scripted_model import ScriptedModel
from benchmarks.stack_memory import total, warm
from benchmarks.warm_run import run
from tests.support.offline import OPENCODE
from tests.support.stack import Stack, running_stack, until

#: Long enough that the next server boots beside it.
_LONG = "WORDS: 400 20"
_SHORT = "WORDS: 5 20"
#: Runs that are held in a shell call while memory is read.
_HELD = 3
_HOLD = "SH: sleep 600 // WORDS: 5 20"


@contextmanager
def _stack(model: ScriptedModel, **environ: str) -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
        running_stack(Path(top), **model.environment(), **environ) as stack,
    ):
        yield stack


async def _lags(model: ScriptedModel, turns: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the model's word to the viewer: with the next server booting, and without.

    With one execution per stack the next server boots when the run has ended.
    """
    beside: list[float] = []
    alone: list[float] = []
    with _stack(model) as several, _stack(model, MAX_CONCURRENT_TASKS="1") as one:
        for turn in range(turns + 1):
            for stack, kept in ((several, beside), (one, alone)):
                await warm(several, 1, timeout=300)
                await warm(one, 1, timeout=300)
                found = await run(stack, model, _LONG)
                if turn:
                    kept += [1000 * lag for lag in found.lags]
            sys.stderr.write(f"  lag beside a boot, load {os.getloadavg()[0]:.1f}: {len(beside)} and {len(alone)}\n")
    return beside, alone


async def _after_start(model: ScriptedModel, *, wait: bool) -> float:
    """Return the seconds from `ocf up` reporting ready to the first word of a run, submitted at once or when warm."""
    with _stack(model) as stack:
        ready = time.perf_counter()
        if wait:
            await warm(stack, 1, timeout=300)
        waited = time.perf_counter() - ready
        return waited + (await run(stack, model, _SHORT)).first_word


async def _memory(model: ScriptedModel) -> tuple[float, list[float]]:
    """Return the MiB of a stack with one warm server, and of each further run that is held in a shell call."""
    with _stack(model) as stack:
        await warm(stack, 1, timeout=300)
        await run(stack, model, _SHORT)
        sizes = [await _settled(stack)]
        held = []
        for number in range(_HELD):
            held.append(asyncio.create_task(run(stack, model, _HOLD)))

            async def sleeping(wanted: int = number + 1) -> bool:
                return len(_sleepers(stack)) >= wanted

            await until(sleeping, timeout=120, what="the shell call")
            sizes.append(await _settled(stack))
        for process in _sleepers(stack):
            process.kill()
        await asyncio.gather(*held)
    return sizes[0], [after - before for before, after in pairwise(sizes)]


def _sleepers(stack: Stack) -> list[psutil.Process]:
    processes = psutil.Process(stack.process.pid).children(recursive=True)
    return [process for process in processes if process.name() == "sleep" and "600" in process.cmdline()]


async def _settled(stack: Stack) -> float:
    """Return the MiB of the whole stack (PSS) once the next server is warm; the median of five seconds."""
    await warm(stack, 1, timeout=300)
    sizes = []
    for _ in range(5):
        await asyncio.sleep(1)
        pids = [stack.process.pid, *(one.pid for one in psutil.Process(stack.process.pid).children(recursive=True))]
        sizes.append(total(pids) / 2**20)
    return statistics.median(sizes)


async def measure(options: Options) -> list[Row]:
    """All rows; what stands beside each other was measured in turn."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    with ScriptedModel() as model:
        at_once: list[float] = []
        waited: list[float] = []
        for _ in range(options.of(5)):
            at_once.append(await _after_start(model, wait=False))
            waited.append(await _after_start(model, wait=True))
            sys.stderr.write(f"  after `ocf up`: at once {at_once[-1]:.2f} s, when warm {waited[-1]:.2f} s\n")
        beside, alone = await _lags(model, options.of(5))
        idle, each = await _memory(model)
    return [
        Row("lag of a word while the next server boots", "ms", beside, alone, "no boot beside", Target("ratio", 1.1)),
        Row(
            "`ocf up` ready to first word, submitted at once", "s", at_once, waited,
            "the wait for the warm server, then a run", Target("ratio", 1.0),
        ),
        Row("memory of an idle stack with one warm server", "MiB", [idle], target=Target("max", 560), note="PSS"),
        Row("memory of each further run", "MiB", each, target=Target("p50", 285), note="PSS, held in a shell call"),
    ]  # fmt: skip
