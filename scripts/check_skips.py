"""Fails when a test was skipped for a reason that is not allowed: `check_skips.py JUNIT.xml ALLOWED.txt`.

ALLOWED has one reason a line, `#` begins a comment; a skip is allowed when its message contains one of them.
The last line says the outcome in the form `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(report: str, allowed: str) -> int:
    """Exit status: 0 when every skip is allowed and at least one test ran."""
    reasons = [line.strip() for line in Path(allowed).read_text().splitlines() if line.strip() and line[0] != "#"]
    cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    passed = failed = skipped = 0
    surprises: list[str] = []
    for case in cases:
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skip is not None and skip.get("type") != "pytest.xfail":
            skipped += 1
            said = f"{skip.get('message')} {skip.text}"
            if not any(reason in said for reason in reasons):
                surprises.append(f"{case.get('classname')}.{case.get('name')}: {skip.get('message')}")
        else:
            passed += 1
    for surprise in surprises:
        sys.stdout.write(f"skipped for a reason that {allowed} does not have: {surprise}\n")
    sys.stdout.write(f"{passed} passed, {failed + len(surprises)} failed, {skipped} skipped\n")
    return 1 if surprises or failed or not passed else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
