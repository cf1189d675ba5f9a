"""What a million executions a day would take, from the measured cost of one.

    python -m benchmarks.capacity_planning [--write]

Bytes, messages and processor time of one execution come from benchmarks/results.json (`growth`, `listing`); how much
a real agent says, and prices, are assumed, and said in the table.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.simulate import LOADS, PAGE, RESULTS
from scripts.generated_sections import between

PER_DAY = 1_000_000
_SUBJECTS = {"OCF_OUTPUT": 2, "KV_ocf_executions": 1}
_GB = 1e9
_DAY = 86_400


@dataclass(frozen=True)
class Assumed:
    """What is not measured. Dollars, as public clouds listed them in 2026, rounded."""

    chunks: int = 500
    objects: int = 6
    heads: int = 5
    archive_kb: int = 200
    agent_mb: int = 600
    agent_cpu_seconds: float = 8.0
    put_per_million: float = 5.0
    get_per_million: float = 0.4
    s3_gb_month: float = 0.023
    cpu_hour: float = 0.04
    gb_hour: float = 0.005
    disk_gb_month: float = 0.08
    archive_days: int = 30


@dataclass(frozen=True)
class One:
    """The measured cost of one execution: bytes, messages and seconds."""

    stream_bytes: dict[str, float]
    stream_messages: dict[str, float]
    cpu: dict[str, float]

    @property
    def chunk_bytes(self) -> float:
        """Of one output message in the stream, headers included."""
        return self.stream_bytes["OCF_OUTPUT"] / self.stream_messages["OCF_OUTPUT"]


def measured(results: dict[str, Any]) -> One:
    """Medians of the kept results. Raises KeyError where something was not measured."""
    size, messages, cpu = {}, {}, {}
    for row in results["growth"]["rows"]:
        name, middle = row["figure"], statistics.median(row["ours"])
        if found := re.match(r"(\w+): bytes per execution", name):
            size[found[1]] = middle
            messages[found[1]] = float(row["note"].split()[0])
        elif found := re.match(r"processor time of (\w+) per execution", name):
            cpu[found[1]] = middle / 1000
    return One(size, messages, cpu)


def streams(one: One, assumed: Assumed) -> str:
    """What the streams hold at the end of their retention."""
    kept = {"OCF_COMMANDS": 30, "OCF_EVENTS": 30, "OCF_OUTPUT": 7, "KV_ocf_executions": assumed.archive_days}
    told = [
        "| stream | kept, days | bytes per execution | messages kept | subjects | disk, one copy |",
        "|---" * 6 + "|",
    ]
    for name, days in kept.items():
        messages, size = one.stream_messages[name], one.stream_bytes[name]
        if name == "OCF_OUTPUT":
            messages, size = assumed.chunks, assumed.chunks * one.chunk_bytes
        # All chunks have one, and their fence another (ADR 0009).
        subjects = _SUBJECTS.get(name) or round(one.stream_messages[name])
        # No stream limit ends a record: it is there until its execution is deleted.
        kept_for = f"{days}, if deleted then" if name == "KV_ocf_executions" else days
        told.append(
            f"| `{name}` | {kept_for} | {size:,.0f} | {messages * PER_DAY * days / 1e6:,.0f} M | "
            f"{subjects * PER_DAY * days / 1e6:,.0f} M | {size * PER_DAY * days / _GB:,.0f} GB |"
        )
    return "\n".join(told)


def money(one: One, assumed: Assumed) -> str:
    """What a day costs."""
    run = LOADS[0].mean_run
    agents = PER_DAY * run / _DAY
    own_cores = sum(one.cpu.values()) * PER_DAY / _DAY
    agent_cores = assumed.agent_cpu_seconds * PER_DAY / _DAY
    memory = agents * assumed.agent_mb / 1000
    output = assumed.chunks * one.chunk_bytes * PER_DAY * 7 / _GB
    rest = (one.stream_bytes["OCF_COMMANDS"] + one.stream_bytes["OCF_EVENTS"]) * PER_DAY * 30 / _GB
    lines = [
        ("agents running at once, mean", f"{agents:,.0f}", f"{run:.0f} s each", 0.0),
        ("memory of agents", f"{memory:,.0f} GB", f"{assumed.agent_mb} MB each", memory * 24 * assumed.gb_hour),
        ("cores of agents", f"{agent_cores:,.0f}", f"{assumed.agent_cpu_seconds:g} CPU seconds each",
         agent_cores * 24 * assumed.cpu_hour),
        ("cores of everything of ours", f"{own_cores:,.1f}",
         ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in one.cpu.items()),
         own_cores * 24 * assumed.cpu_hour),
        ("S3 writes", f"{assumed.objects * PER_DAY / 1e6:g} M", f"{assumed.objects} objects each",
         assumed.objects * PER_DAY / 1e6 * assumed.put_per_million),
        ("S3 look-ups", f"{assumed.heads * PER_DAY / 1e6:g} M", "each object verified",
         assumed.heads * PER_DAY / 1e6 * assumed.get_per_million),
        ("S3 storage", f"{assumed.archive_kb * 1000 * PER_DAY * assumed.archive_days / _GB:,.0f} GB",
         f"{assumed.archive_kb} kB each, {assumed.archive_days} days",
         assumed.archive_kb * 1000 * PER_DAY * assumed.archive_days / _GB * assumed.s3_gb_month / 30),
        ("NATS disks, three copies", f"{3 * (output + rest):,.0f} GB", "output 7 days, the rest 30",
         3 * (output + rest) * assumed.disk_gb_month / 30),
    ]  # fmt: skip
    told = ["| what | how much | from | $ a day |", "|---|---|---|---|"]
    told += [f"| {what} | {much} | {why} | {cost:,.0f} |" for what, much, why, cost in lines]
    told.append(f"| **together** | | | **{sum(cost for *_, cost in lines):,.0f}** |")
    return "\n".join(told).replace(" | 0 |", " | |")


def text(results: dict[str, Any], assumed: Assumed) -> str:
    """The whole block."""
    one = measured(results)
    rate = LOADS[2].rate(LOADS[2].hours * 1800)
    head = (
        f"{PER_DAY:,} executions a day are {PER_DAY / _DAY:.1f} a second, {rate:.0f} at a peak of three times that; "
        f"with {assumed.chunks} chunks each (assumed), {assumed.chunks * rate:,.0f} output messages a second then, of "
        f"{one.chunk_bytes:.0f} bytes (measured)."
    )
    return f"{head}\n\n{streams(one, assumed)}\n\n{money(one, assumed)}"


def main() -> None:
    """Print it, or put it into docs/explanation/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/explanation/scale.md")
    asked = parser.parse_args()
    found = text(json.loads(RESULTS.read_text()), Assumed())
    if asked.write:
        PAGE.write_text(between(PAGE, "capacity", found))
    else:
        print(found)


if __name__ == "__main__":
    main()
