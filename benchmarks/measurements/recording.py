"""Cost of recording for a run: runs with `off` and with each kind of recording alternate on one stack."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.scripted_model import ScriptedModel
from benchmarks.stack_memory import warm
from benchmarks.warm_run import Run, run
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack

KINDS = ("answers", "full")
SCRIPT = "WORDS: 200 10"


async def measure(options: Options) -> list[Row]:
    """Each kind in turn; a first round is not kept."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    found: dict[str, list[Run]] = {kind: [] for kind in ("off", *KINDS)}
    with (
        ScriptedModel() as model,
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
        running_stack(Path(top), **model.environment()) as stack,
    ):
        for turn in range(options.of(10) + 1):
            for kind, runs in found.items():
                await warm(stack, 1, timeout=300)
                one = await run(stack, model, SCRIPT, recording=kind)
                cpu = sum(one.cpu.values())
                sys.stderr.write(f"  {kind}: end {one.end:.2f} s, cpu {cpu:.2f} s, load {os.getloadavg()[0]:.1f}\n")
                if turn:
                    runs.append(one)
    return list(itertools.chain.from_iterable(_rows(kind, found[kind], found["off"]) for kind in KINDS))


def _rows(kind: str, ours: list[Run], off: list[Run]) -> Iterator[Row]:
    against = "the same with `recording: off`"
    mine, theirs = ([1000 * lag for one in runs for lag in one.lags] for runs in (ours, off))
    yield Row(f"recording `{kind}`: lag of a word", "ms", mine, theirs, against, Target("ratio", 1.02))
    yield Row(f"recording `{kind}`: lag of a word, p95", "ms", mine, theirs, against, Target("p95 ratio", 1.02))
    mine, theirs = ([sum(one.cpu.values()) for one in runs] for runs in (ours, off))
    yield Row(f"recording `{kind}`: processor time of a run", "s", mine, theirs, against, Target("ratio", 1.02))
