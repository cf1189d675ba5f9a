"""What the sandbox costs on git and file walks: benchmarks/sandbox_cost.py, as rows."""

from __future__ import annotations

from benchmarks import sandbox_cost
from benchmarks.measurement import Options, Row, Target

PROMISED = ("git status x40", "stat walk")


async def measure(options: Options) -> list[Row]:
    """Confined beside bare, in turn."""
    runs = await sandbox_cost.samples(options.of(20))
    rows = []
    for work in runs["bare"][0]:
        target = Target("ratio", 1.15) if work in PROMISED else None
        confined, bare = ([run[work] for run in runs[way]] for way in ("confined", "bare"))
        rows.append(Row(f"sandbox: {work}", "s", confined, bare, "the same, not confined", target))
    return rows
