"""Every figure, one table: `python -m benchmarks [--only NAME,...] [--quick] [--json FILE] [--report]`.

Raw samples go to `.bench/results.json`. With `--keep` they are also merged into `benchmarks/results.json`, from which
`--report` writes docs/reference/benchmarks.md, benchmarks/results.md and the tables of docs/explanation/scale.md; all
are committed. `--quick` only proves that everything can be measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measurement import Options, as_json, from_json, noted

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks/results.json"
PAGE = ROOT / "docs/reference/benchmarks.md"
DETAILS = ROOT / "benchmarks/results.md"
#: In the order they run: the machine's short ones first, those that fill it last.
FIGURES = (
    "publish", "submit", "viewers", "browser", "console", "cancel", "overhead", "triggers", "memory", "start",
    "first_output", "spans", "warm", "warm_server", "gateway", "listing", "sandbox", "model_proxy", "archive",
    "workspace", "setup", "pull_request", "attachment", "poison", "attacks", "recording", "recorded_bytes", "rerun",
    "history", "growth",
)  # fmt: skip


def commit() -> str:
    """The commit that is measured; `+` when the tree differs from it."""
    told = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "events", "functions"], cwd=ROOT, capture_output=True, text=True
    )
    return (told.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def measure(name: str, options: Options) -> dict[str, Any]:
    """One module's figures."""
    import uvloop

    module = importlib.import_module(f"benchmarks.measurements.{name}")
    started = time.perf_counter()
    rows, noise = uvloop.run(noted(lambda: module.measure(options)))
    done = as_json(rows, noise, time.perf_counter() - started)
    return {**done, "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def run(names: list[str], options: Options, path: Path) -> tuple[dict[str, Any], list[str]]:
    """The results so far are written after each module: a run that is cut short has not been for nothing."""
    results: dict[str, Any] = {}
    failed = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        sys.stderr.write(f"{name} …\n")
        try:
            results[name] = measure(name, options)
        except Exception:  # one figure that cannot be measured here must not cost the others
            traceback.print_exc()
            failed.append(name)
            continue
        path.write_text(json.dumps(results))
        rows, noise = from_json(results[name])
        sys.stdout.write(report.lines(rows, noise) + "\n")
        sys.stdout.flush()
    return results, failed


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"some of: {','.join(FIGURES)}")
    parser.add_argument("--runs", type=int, default=20, help="samples of each figure, where it can be afforded")
    parser.add_argument("--executions", type=int, default=0, help="growth: so many, e.g. 10000 (40 minutes)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench/results.json")
    parser.add_argument("--keep", action="store_true", help="merge into benchmarks/results.json")
    parser.add_argument("--report", action="store_true", help="write the pages from the committed results")
    asked = parser.parse_args()
    names = [name for name in asked.only.split(",") if name] or list(FIGURES)
    if unknown := set(names) - set(FIGURES):
        parser.error(f"--only: {', '.join(sorted(unknown))}: not among {', '.join(FIGURES)}")
    failed: list[str] = []
    if asked.keep or not asked.report:
        results, failed = run(names, Options(asked.runs, asked.quick, asked.executions), asked.json)
        if asked.keep:
            kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
            KEPT.write_text(report.compact({**kept, **results}))
    if asked.report:
        committed = json.loads(KEPT.read_text())
        PAGE.write_text(report.page(committed))
        DETAILS.write_text(report.details(committed))
        for derived in ("capacity_planning", "simulate"):  # docs/explanation/scale.md
            subprocess.run([sys.executable, "-m", f"benchmarks.{derived}", "--write"], check=True, cwd=ROOT)
    if failed:
        sys.stderr.write(f"not measured: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
