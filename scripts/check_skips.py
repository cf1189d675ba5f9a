"""Fail when a test failed, or was skipped for a reason that is not allowed: `check_skips.py ALLOWED.txt JUNIT.xml`.

ALLOWED has one reason a line, `#` begins a comment; a skip is allowed when its message contains one of them.
The last line says the outcome in the form `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(allowed: str, report: str) -> int:
    """Exit status: 0 when every skip is allowed, nothing failed, and at least one test ran."""
    reasons = [line.strip() for line in Path(allowed).read_text().splitlines() if line.strip() and line[0] != "#"]
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        name = f"{case.get('classname')}.{case.get('name')}"
        # Two cases may bear one name: the failed one counts.
        if outcomes.get(name) != "failed":
            outcomes[name] = _outcome(case, reasons)
    for name, outcome in outcomes.items():
        if outcome.startswith("surprise"):
            sys.stdout.write(f"skipped for a reason that {allowed} does not have: {name} ({outcome[9:]})\n")
    said = [outcome.split(":")[0] for outcome in outcomes.values()]
    passed, failed = said.count("passed"), said.count("failed") + said.count("surprise")
    sys.stdout.write(f"{passed} passed, {failed} failed, {said.count('skipped')} skipped\n")
    return 1 if failed or not passed else 0


def _outcome(case: ElementTree.Element, reasons: list[str]) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skip = case.find("skipped")
    if skip is None or skip.get("type") == "pytest.xfail":
        return "passed"
    said = f"{skip.get('message')} {skip.text}"
    return "skipped" if any(reason in said for reason in reasons) else f"surprise:{skip.get('message')}"


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
