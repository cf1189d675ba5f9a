"""The gateway's figures of benchmarks/gateway.py, as rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import gateway
from benchmarks.measurement import Options, Row, Target
from ocf.events.adapters.nats.bus import connect
from ocf.functions.runtime.setup import apply
from tests.support.nats import running_nats

TARGETS = {
    "POST /tasks/execute, 16 callers": {"per_second": Target("p50", 500, at_least=True)},
    "POST /tasks/execute at 100/s": {"p99_ms": Target("p50", 50)},
    f"GET /health at 50/s, {gateway.VIEWERS} viewers at {gateway.RATE} chunks/s": {"p95_ms": Target("p50", 50)},
    f"GET /tasks, first page of {gateway.RECORDS}": {"p50_ms": Target("p50", 50)},
}


def _unit(key: str) -> str:
    return {"per_second": "calls/s", "chunks_per_second": "chunks/s", "cpu_of_a_core": "cores"}.get(key, "ms")


async def measure(options: Options) -> list[Row]:
    """Whole runs of it; each sample is one run's figure."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(1 if options.quick else max(1, min(3, options.runs // 10))):
        with (
            tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder,
            running_nats(Path(folder), streams=False) as nats,
        ):
            bus = await connect(nats.url, creds=nats.creds, name="setup")
            await apply(bus)
            await bus.close()
            async with gateway.started(nats, 1.0 if options.quick else 4.0) as (bench, executions):
                figures = await gateway.run(nats, bench, executions)
        for name, values in figures.items():
            for key, value in values.items():
                found.setdefault((name, key), []).append(value)
    return [
        Row(
            f"{name}: {key.replace('_ms', '').replace('_', ' ')}",
            _unit(key),
            values,
            target=TARGETS.get(name, {}).get(key),
        )
        for (name, key), values in found.items()
    ]
