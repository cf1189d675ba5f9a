"""Where the time of a warm run goes: from submit to `completed`, on the wall and in processor seconds.

Prints a table of spans for each script. The rows kept are the run's own times and processor seconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measurement import Options, Row
from benchmarks.scripted_model import ScriptedModel
from benchmarks.stack_memory import warm
from benchmarks.warm_run import SCRIPTS, Run, SpanReceiver, run
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack

#: Spans by name, in the order of a run, with whose time it is.
SPANS = {
    "process dev.ocf.task.submit.v1": "submit function",
    "process dev.ocf.task.execute.v1": "execute function, whole",
    "get agent": "warm server taken and checked",
    "prepare workspace": "workspace",
    "create session": "OpenCode: session",
    "send prompt": "OpenCode: event stream, prompt",
    "chat m1": "model calls, through the model proxy",
    "read final state": "OpenCode: state after idle",
    "export conversation": "OpenCode: conversation",
    "end agent": "agent's processes ended",
    "write patch": "changes, patch",
    "write archive": "workspace archive",
    "upload": "artifacts to S3",
    "flush output": "last output stored",
    "record end": "record, terminal fact",
}


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def table(script: str, runs: list[Run]) -> str:
    """Return the medians of a script's spans as a Markdown table, milliseconds."""
    load = os.getloadavg()[0]
    lines = [
        f"{script}, n = {len(runs)}, load {load:.1f}",
        "",
        "| span | begins | takes | times |",
        "|---|---|---|---|",
    ]
    for name, what in SPANS.items():
        found = [[span for span in one.spans if span[0] == name] for one in runs]
        begins = _median([spans[0][1] for spans in found if spans])
        takes = _median([sum(b - a for _, a, b in spans) for spans in found if spans])
        times = _median([len(spans) for spans in found])
        lines.append(f"| {what} | {1000 * begins:.0f} | {1000 * takes:.0f} | {times:.0f} |")
    for what, values in (
        ("first request at the model", [one.model for one in runs]),
        ("first word at the viewer", [one.first_word for one in runs]),
        ("model has finished", [one.finished for one in runs]),
        ("last word at the viewer", [one.last_word for one in runs]),
        ("`completed` at the viewer", [one.end for one in runs]),
    ):
        lines.append(f"| **{what}** | {1000 * _median(values):.0f} | | |")
    names = sorted({name for one in runs for name in one.cpu})
    lines += ["", "| processor seconds | |", "|---|---|"]
    lines += [f"| {name} | {_median([one.cpu.get(name, 0.0) for one in runs]):.2f} |" for name in names]
    return "\n".join(lines)


async def measure(options: Options) -> list[Row]:
    """Each script in turn on one stack with a warm server; a first round is not kept."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    found: dict[str, list[Run]] = {script: [] for script in SCRIPTS}
    with (
        ScriptedModel() as model,
        SpanReceiver() as receiver,
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
        running_stack(
            Path(top),
            REPEATED_CALLS="0",  # twenty turns with the same call
            **model.environment(),
            **receiver.environment(),
        ) as stack,
    ):
        for turn in range(options.of(10) + 1):
            for script, runs in found.items():
                await warm(stack, 1, timeout=300)
                one = await run(stack, model, script, receiver)
                if turn:
                    runs.append(one)
                sys.stderr.write(
                    f"  {script}: first {one.first_word:.2f} s, end {one.end:.2f} s, tail {one.tail:.2f} s, "
                    f"{one.messages} messages, cpu {sum(one.cpu.values()):.2f} s, load {os.getloadavg()[0]:.1f}\n"
                )
    for script, runs in found.items():
        sys.stdout.write(f"\n{table(script, runs)}\n")
    rows = []
    for script, runs in found.items():
        rows += [
            Row(f"warm run, {script}: submit to first word", "s", [one.first_word for one in runs]),
            Row(f"warm run, {script}: last word to `completed`", "s", [one.tail for one in runs]),
            Row(f"warm run, {script}: submit to `completed`", "s", [one.end for one in runs]),
            Row(f"warm run, {script}: processor time, OpenCode", "s", [one.cpu["opencode"] for one in runs]),
            Row(f"warm run, {script}: processor time, the rest", "s", [_ours(one) for one in runs]),
        ]
    return rows


def _ours(one: Run) -> float:
    return sum(seconds for name, seconds in one.cpu.items() if name != "opencode")
