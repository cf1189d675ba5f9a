"""Tables of figures, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.harness import Noise, Row, from_json, quantile

#: What the issues ask for and nothing here measures. One line each, with the reason.
NOT_MEASURED = (
    "10,000 executions in a row: measured as far as the last table says; ten thousand take an hour on two cores.",
    "Anything on more than this one machine: a three-node NATS cluster, a network between the parts, a real S3.",
    "A real model. Everything here is a script, so that the same work is done each time.",
    "macOS, ARM, and kernels without Landlock.",
)
#: What was found slow, and what came of it. Figures of the same machine, minutes apart.
MENDED: tuple[str, ...] = (
    "Submit looked for a record before it made one, and waited for each of schedule, command and fact. Now the create "
    "says whether it is new, and the three leave together: six waits in a row became three, one request fewer "
    "(processor time of the handler, 16 at once, busy machine: 0.91 ms before, 0.79 ms after).",
    "Publisher: a chunk is not copied when redaction changed nothing, and its JSON is made by pydantic-core, not "
    "by `json.dumps`, which builds an encoder for each call.",
    "Publisher: the last letters of a text that could begin a secret were said at the end of the run; they are "
    "now said when their part ends, in their place. Found because a figure waited for a word that never came whole.",
    "Gateway: a submit takes what it needs from the request itself, not through five of the framework's dependencies, "
    "and a loopback name is looked at once (processor time of a call, medians of three runs, a crowded machine: "
    "1.02 ms before, 0.82 ms after).",
    "Every process: what start-up made is out of the garbage collector's sight. One full collection went through "
    "125,000 objects of the gateway's and stopped every answer for 80 ms; now it takes less than one.",
    "Archive: one block is compressed while the next is read: 60 MB/s before, 66 after (0.66 and 0.72 of raw).",
    "The dispatcher no longer loads functions-framework: 130 modules and 7 MB less.",
    "`ocf_warm_slots` showed what was ready at the last run; it now shows what is ready.",
)
#: Why a target is missed, by figure; shown under the summary.
REASONS: dict[str, str] = {
    "output publish throughput, 256 B chunks": "half of a chunk's time goes into its thirteen headers, which nats-py "
    "checks and encodes one by one for each message (profile: `_send_publish` 1.2 of 2.4 s), a tenth into looking for "
    "secrets; the bare message has no headers. Against the very same message raw it is above the target.",
    "submit, events per second and core": "the echo does no I/O; a submit asks NATS five times, which is most of "
    "its processor time (profile: nats-py), and validates and writes three messages. The framework is a quarter.",
    "submit to first output, no slot ready": "a directory is booted by a throw-away prompt before the workspace is put "
    "into it (nothing in a workspace may configure OpenCode); that prompt is what comes on top.",
    "idle memory of the stack, no OpenCode": "of the S3 server's 115 MiB, 86 are pages of its program file, which the "
    "system drops when memory is short (`Private_Clean`; its heap is 29, and 25 with GOGC=25); the functions share "
    "what they have imported, and each has some 30 of its own.",
    "memory of nats": "it keeps what 10,000 executions left: its index of subjects and messages grows by some 14 KiB "
    "with each (docs/scale.md), from 57 MiB to 191.",
    "memory of s3": "SeaweedFS caches what was written, up to some 490 MiB, and gives it back; nothing was deleted.",
    "memory of control": "the gateway knows each execution, 1.9 KiB of it: from 54 MiB to 73.",
    "chunk said to message in Chromium, 200/s": "ours is kept before it is passed on, bare is not: beside a bare "
    "publish to the same stream the ratio is the smaller one below.",
}
_HEAD = (
    "| figure | unit | n | ours, median | ours, p95 | baseline, median | ratio | target | measured | met |\n"
    + "|---" * 10
)
HEADER = f"{_HEAD}|"
_INTRO = """# Benchmarks

Generated from `benchmarks/results.json` by `python -m benchmarks --report`; the file has every raw sample.
`make bench` measures all of it anew (35 minutes on two quiet cores), `python -m benchmarks --only NAME,...` some of it.

**How it is measured.** Ours and its baseline take turns in one run (A B A B), so what else the machine does hits both.
Medians and 95th percentiles are of the samples kept; `n` says how many. *Ratio* is the median of ours over that of the
baseline. *Noise* is the load average and a fixed loop of one core, before and after: where the loop's time differs
from its usual {quiet:g} ms, other work was on the machine, and absolute times are too long by as much. A target
that was missed stays in the table.
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
    """docs/benchmarks.md."""
    spins = [float(part["noise"]["spin_before_ms"]) for part in results.values()]
    parts = [_INTRO.format(quiet=min(spins, default=0.0)), _summary(results)]
    for name, part in results.items():
        rows, noise = from_json(part)
        where = f"Measured at `{part['commit']}`, {part['date']}, in {part['seconds']:g} s."
        parts.append(f"## {name}\n\n{where}\n\n{_spaced(lines(rows, noise))}\n")
    parts.append("## Mended\n\n" + "\n".join(f"- {each}" for each in MENDED) + "\n")
    parts.append("## Not measured\n\n" + "\n".join(f"- {each}" for each in NOT_MEASURED) + "\n")
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
            f"| [{row.figure}](#{name}) | {row.target.text()}{unit} | {shown} | {len(row.ours)} | "
            f"{'yes' if row.met() else '**no**'} |"
        )
    missed = [row for _, row in found if not row.met()]
    told += ["", "Why those that are missed are missed:", ""]
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
