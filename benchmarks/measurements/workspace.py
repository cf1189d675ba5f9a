"""A workspace's way through copy, pack, S3 and back: benchmarks/workspace_roundtrip.py, as rows."""

from __future__ import annotations

from benchmarks import workspace_roundtrip
from benchmarks.measurement import Options, Row


async def measure(options: Options) -> list[Row]:
    """One round trip of each kind of workspace."""
    files, megabytes = (200, 4) if options.quick else (10_000, 256)
    rows = []
    for each in await workspace_roundtrip.run(files, megabytes):
        said = f"{each.mb_per_second:g} MB/s, memory grew by {each.memory_mb:g} MB"
        rows.append(Row(f"workspace of {each.workspace}: {each.phase}", "s", [each.seconds], note=said))
    return rows
