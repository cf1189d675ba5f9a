"""Tables of figures: the terminal, docs/reference/benchmarks.md and benchmarks/results.md."""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.measurement import Noise, Row, from_json, quantile

#: What the benchmarks leave out, with the reason.
NOT_MEASURED = (
    "Anything on more than this one machine: a three-node NATS cluster, a network between the parts, a real S3.",
    "A real model. Every model here is a script, so that each run does the same work.",
    "macOS, ARM, and kernels without Landlock.",
)
#: Slow paths that the benchmarks found, and the repair. Figures of the same machine, minutes apart.
MENDED: tuple[str, ...] = (
    "Submit read the record before it created one, and waited for schedule, command and fact one after the other. The "
    "create now reports whether the record is new, and the three publishes run together: six sequential waits became "
    "three, with one request fewer (processor time of the handler, 16 at once, busy machine: 0.91 ms before, 0.79 ms "
    "after).",
    "Publisher: redaction copies a chunk only when it changes it, and pydantic-core writes its JSON instead of "
    "`json.dumps`, which builds an encoder for each call.",
    "Publisher: the last letters of a text that could begin a secret were published at the end of the run. They are "
    "now published when their part ends.",
    "Gateway: a submit reads what it needs from the request instead of through five of the framework's dependencies, "
    "and checks a loopback name once (processor time of a call, medians of three runs, a crowded machine: 1.02 ms "
    "before, 0.82 ms after).",
    "Every process: objects created at start are excluded from garbage collection. A full collection visited 125,000 "
    "objects of the gateway and stopped every response for 80 ms; it now takes less than 1 ms.",
    "Archive: compresses one block while it reads the next: 60 MB/s before, 66 after (0.66 and 0.72 of raw).",
    "The dispatcher no longer loads functions-framework: 130 modules and 7 MB less.",
    "`ocf_warm_slots` showed the warm servers of the last run; it now shows those that are ready.",
)
#: Why a target is missed, by figure; shown under the summary.
REASONS: dict[str, str] = {
    "output publish throughput, 256 B chunks": "half of a chunk's time goes into its thirteen headers, which nats-py "
    "checks and encodes one by one for each message (profile: `_send_publish` 1.2 of 2.4 s), and a tenth into the "
    "search for secrets; the bare message has no headers. Against the identical message the ratio meets the target.",
    "submit, events per second and core": "the echo does no I/O. A submit makes five requests to NATS, which is most "
    "of its processor time (profile: nats-py), and validates and writes three messages. The framework is a quarter.",
    "submit to first output, no slot ready": "a throw-away prompt boots OpenCode in an empty directory before the "
    "workspace is put there, because no workspace may configure OpenCode; that prompt is the difference.",
    "idle memory of the stack, no OpenCode": "86 of the S3 server's 115 MiB are pages of its program file, which the "
    "kernel drops when memory is short (`Private_Clean`; its heap is 29 MiB, 25 with GOGC=25). The functions share "
    "the modules that they import; each has about 30 MiB of its own.",
    "memory of nats": "NATS keeps the messages of 10,000 executions: its index of subjects and messages grows by about "
    "14 KiB for each (docs/explanation/scale.md), from 57 MiB to 191.",
    "memory of s3": "SeaweedFS caches written objects, up to about 490 MiB, and releases the cache. Nothing was "
    "deleted.",
    "memory of control": "the gateway holds 1.9 KiB for each execution: from 54 MiB to 73.",
    "chunk said to message in Chromium, 200/s": "the chunk is stored before it is republished, the bare message is "
    "not stored. Beside a bare publish to the same stream the ratio is 1.18.",
}
_HEAD = (
    "| figure | unit | n | ours, median | ours, p95 | baseline, median | ratio | target | measured | met |\n"
    + "|---" * 10
)
HEADER = f"{_HEAD}|"
_INTRO = """# Benchmarks

Generated from `benchmarks/results.json` by `python -m benchmarks --report`. All measurements of each figure:
[benchmarks/results.md](../../benchmarks/results.md). `make bench` measures all of it (80 minutes on two quiet cores),
`python -m benchmarks --only NAME,...` some of it.

**Method.** The system and its baseline take turns in one run (A B A B), so that other load on the machine affects both.
Medians and 95th percentiles are of the samples kept; `n` is their number. *Ratio* is the median of this system over
that of the baseline. Missed targets stay in the table.
"""
_DETAILS_INTRO = """# Benchmark results

Generated from `benchmarks/results.json` by `python -m benchmarks --report`; that file has every raw sample. Summary and
method: [docs/reference/benchmarks.md](../docs/reference/benchmarks.md).

*Noise* is the load average and the time of a fixed loop on one core, before and after the figure. The loop takes
{quiet:g} ms on a quiet machine; a longer time means other work on the machine, and absolute times are too long by the
same factor.
"""


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def line(row: Row) -> str:
    """A row as a line of a Markdown table."""
    ours, base = row.ours, row.baseline
    measured, met = row.measured(), row.met()
    cells = [
        row.figure,
        row.unit,
        str(len(ours)),
        _number(statistics.median(ours)) if ours else "",
        _number(quantile(ours, 0.95)) if len(ours) > 1 else "",
        _number(statistics.median(base)) if base else "",
        f"{statistics.median(ours) / statistics.median(base):.2f}" if ours and base and statistics.median(base) else "",
        row.target.text() if row.target else "",
        _number(measured) if measured is not None else "",
        {True: "yes", False: "**no**", None: ""}[met],
    ]
    return f"| {' | '.join(cells)} |"


def lines(rows: list[Row], noise: Noise) -> str:
    """A module's table, what its baselines are, and the noise."""
    said = [HEADER, *(line(row) for row in rows)]
    said += [f"- {row.figure}: baseline is {row.against}" for row in rows if row.against]
    said += [f"- {row.figure}: {row.note}" for row in rows if row.note]
    said.append(
        f"- noise: load {noise.load_before} before, {noise.load_after} after; "
        f"loop {noise.spin_before_ms} ms before, {noise.spin_after_ms} ms after"
    )
    return "\n".join(said)


def page(results: dict[str, Any]) -> str:
    """docs/reference/benchmarks.md: targets, results and reasons."""
    parts = [_INTRO, _summary(results)]
    parts.append("## Repairs\n\n" + "\n".join(f"- {each}" for each in MENDED) + "\n")
    parts.append("## Not measured\n\n" + "\n".join(f"- {each}" for each in NOT_MEASURED) + "\n")
    return "\n".join(parts)


def details(results: dict[str, Any]) -> str:
    """benchmarks/results.md: every figure."""
    spins = [float(part["noise"]["spin_before_ms"]) for part in results.values()]
    parts = [_DETAILS_INTRO.format(quiet=min(spins, default=0.0))]
    for name, part in results.items():
        rows, noise = from_json(part)
        where = f"Measured at `{part['commit']}`, {part['date']}, in {part['seconds']:g} s."
        parts.append(f"## {name}\n\n{where}\n\n{_spaced(lines(rows, noise))}\n")
    return "\n".join(parts)


def _spaced(text: str) -> str:
    """A blank line between the table and the list under it."""
    head, _, rest = text.partition("\n- ")
    return f"{head}\n\n- {rest}"


def _summary(results: dict[str, Any]) -> str:
    """Every figure that has a target."""
    found = [(name, row) for name, part in results.items() for row in from_json(part)[0] if row.target]
    met = sum(bool(row.met()) for _, row in found)
    told = [
        f"**{met} of {len(found)} targets are met.**",
        "",
        "| figure | target | measured | n | met |",
        "|---|---|---|---|---|",
    ]
    for name, row in found:
        value = row.measured()
        assert row.target is not None
        unit = "" if row.target.measure in ("ratio", "p95 ratio", "spread") else f" {row.unit}"
        shown = f"{_number(value)}{unit}" if value is not None else ""
        told.append(
            f"| [{row.figure}](../../benchmarks/results.md#{name}) | {row.target.text()}{unit} | {shown} "
            f"| {len(row.ours)} | {'yes' if row.met() else '**no**'} |"
        )
    missed = [row for _, row in found if not row.met()]
    told += ["", "Reasons for the missed targets:", ""]
    told += [f"- {row.figure}: {REASONS[row.figure]}" for row in missed if row.figure in REASONS]
    return "\n".join(told) + "\n"


def compact(results: dict[str, Any]) -> str:
    """JSON that a diff can be read of: one line for each row."""
    parts = []
    for name, part in results.items():
        rows = ",\n".join(f"   {json.dumps(row)}" for row in _rounded(part["rows"]))
        rest = json.dumps({key: value for key, value in part.items() if key != "rows"})[:-1]
        parts.append(f' {json.dumps(name)}: {rest},\n  "rows": [\n{rows}\n  ]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: [_short(n) for n in v] if k in ("ours", "baseline") else v for k, v in row.items()} for row in rows]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
