"""Tables of figures, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.harness import Noise, Row, from_json, quantile

#: What the issues ask for and nothing here measures. One line each, with the reason.
NOT_MEASURED = (
    "10,000 executions in a row: measured as far as the last table says; a run of 10,000 takes hours on two cores.",
    "A 10,000-chunk history opened in the console, and frames per second while it scrolls: the console's own browser "
    "tests open such a history and wait for its last line, but time nothing.",
    "Anything on more than this one machine: a three-node NATS cluster, a network between the parts, a real S3.",
    "A real model. Everything here is a script, so that the same work is done each time.",
    "macOS, ARM, and kernels without Landlock.",
)
_HEAD = (
    "| figure | unit | n | ours, median | ours, p95 | baseline, median | ratio | target | measured | met |\n"
    + "|---" * 10
)
HEADER = f"{_HEAD}|"
_INTRO = """# Benchmarks

Generated from `benchmarks/results.json` by `python -m benchmarks --report`; the file has every raw sample.
`make bench` measures all of it anew (20 minutes on two quiet cores), `python -m benchmarks --only NAME,...` some of it.

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
        if history := part.get("history"):
            parts.append("Before and after:\n\n" + "\n".join(f"- {each}" for each in history) + "\n")
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
        unit = "" if row.target.measure in ("ratio", "spread") else f" {row.unit}"
        shown = f"{_number(value)}{unit}" if value is not None else ""
        told.append(
            f"| [{row.figure}](#{name}) | {row.target.text()}{unit} | {shown} | {len(row.ours)} | "
            f"{'yes' if row.met() else '**no**'} |"
        )
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
