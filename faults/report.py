"""docs/reference/faults.md (the result) and faults/results.md (every fault), from faults/results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.fault_pairs import FAULTS, VICTIMS
from scripts.generated_sections import between

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "faults/results.json"
PAGE = ROOT / "docs/reference/faults.md"
DETAILS = ROOT / "faults/results.md"
_DETAILS_INTRO = """# Results of the fault tests

Generated from `faults/results.json` by `python -m faults --report`. Method and summary:
[docs/reference/faults.md](../docs/reference/faults.md).
"""


def keep(name: str, result: dict[str, Any]) -> None:
    """Merge a run into the committed results under `name`, and write the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[name] = result
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    write()


def write() -> None:
    """Write the generated part of the page, and the page of details."""
    results = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    PAGE.write_text(between(PAGE, "results", page(results)))
    DETAILS.write_text(details(results))


def page(results: Mapping[str, Any]) -> str:
    """Runs, and one grid of all faults."""
    parts = [_summary(results)]
    shares = [pair for name, result in results.items() if name.startswith("matrix") for pair in result["pairs"]]
    if shares:
        parts.append(_grid(shares))
    return "\n".join(parts)


def details(results: Mapping[str, Any]) -> str:
    """Every fault of every run."""
    parts = [_DETAILS_INTRO]
    for name, result in results.items():
        parts.append(f"## {name}\n\n{_said(result)}\n")
        parts.append(_pairs(result))
        if "soak" in result:
            parts.append(_soak(result["soak"]))
    return "\n".join(parts)


def _summary(results: Mapping[str, Any]) -> str:
    lines = ["| run | seed | commit | faults | executions | minutes | passed |", "|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        lines.append(
            f"| {name} | {result['seed']} | `{result['commit']}` | {len(result['pairs'])} | {result['executions']} "
            f"| {result['minutes']} | {'yes' if result['good'] else '**no**'} |"
        )
    return "\n".join(lines) + "\n"


def _said(result: Mapping[str, Any]) -> str:
    wrong = [each for pair in result["pairs"] for each in pair["violations"]]
    wrong += [each for name in ("elsewhere", "unsettled", "leftovers", "clients") for each in result[name]]
    said = (
        f"{result['date'][:16].replace('T', ' ')} UTC, {result['rate']:g} executions a second. All were settled "
        f"{result['settled_after']:g} s after the load ended. Dead letters: {result['dead_letters']}, one of them "
        "deliberate."
    )
    return said if not wrong else said + "\n\n" + "\n".join(f"- {each}" for each in wrong)


def _grid(pairs: Sequence[Mapping[str, Any]]) -> str:
    by_name = {pair["pair"]: pair for pair in pairs}
    lines = [f"| | {' | '.join(FAULTS)} |", f"|---|{'---|' * len(FAULTS)}"]
    for victim in VICTIMS:
        cells = [_cell(by_name.get(f"{victim}:{fault}")) for fault in FAULTS]
        lines.append(f"| {victim} | {' | '.join(cells)} |")
    said = (
        "Each cell: executions under the fault, and seconds from the end of the fault to the end of the last one.\n\n"
    )
    return said + "\n".join(lines) + "\n"


def _cell(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return "not run"
    return (
        f"**{len(pair['violations'])} wrong**"
        if pair["violations"]
        else f"{pair['executions']}, {pair['all_ended']:g} s"
    )


def _pairs(result: Mapping[str, Any]) -> str:
    lines = ["| fault | target | duration | ready after | ends of the executions |", "|---|---|---|---|---|"]
    for pair in sorted(result["pairs"], key=lambda pair: str(pair["pair"])):
        ends = ", ".join(f"{count} {state}" for state, count in pair["outcomes"].items())
        lines.append(f"| {pair['pair']} | {pair['how']} | {pair['seconds']} s | {pair['back']} s | {ends} |")
    return f"<details><summary>each fault</summary>\n\n{chr(10).join(lines)}\n\n</details>\n"


def _soak(rows: list[Mapping[str, Any]]) -> str:
    lines = ["| what | before | after | allowed | |", "|---|---|---|---|---|"]
    for row in rows:
        values = [_number(row["what"], row[name]) for name in ("before", "after", "most")]
        lines.append(f"| {row['what']} | {' | '.join(values)} | {_verdict(row)} |")
    return f"<details><summary>before and after</summary>\n\n{chr(10).join(lines)}\n\n</details>\n"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["within"]:
        return ""
    return "**missing**" if row["after"] is None else "**more**"


def _number(what: str, value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value / 1024**2:.0f} MiB" if what.endswith("rss") else f"{value:g}"
