"""`python -m tests.support.record_suite`: record the suite of the pinned OpenCode again, with its scripted model.

Only once `ocf suite run tests/suite/opencode.suite.yaml` passes with the new version, or each difference is explained
in CHANGELOG.md: what is recorded here is what the next version is held to.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from pathlib import Path

import yaml

from tests.integration.test_rerun_opencode import recorded_bundles
from tests.support.offline import ROOT

FOLDER = ROOT / "tests/suite"
SUITE = FOLDER / "opencode.suite.yaml"
#: Names of the suite's executions, by bundle.
NAMES = {
    "failing.ocf.tar": "tools that fail",
    "length.ocf.tar": "an answer that is cut off",
    "cancelled.ocf.tar": "cancelled in the middle of an answer",
    "turn-3.ocf.tar": "the third turn of a session",
}


def write(bundles: dict[str, bytes]) -> None:
    """Write the bundles and the suite that names them."""
    entries = []
    for name, content in bundles.items():
        (FOLDER / name).write_bytes(content)
        entries.append({"name": NAMES[name], "bundle": name, "sha256": hashlib.sha256(content).hexdigest()})
    about = {"same": ["diff", "result", "calls"], "on_divergence": "fail", "executions": entries}
    SUITE.write_text(yaml.safe_dump(about, sort_keys=False))


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ocf-") as folder:
        made = await recorded_bundles(Path(folder))
        write({path.name: path.read_bytes() for path in made if path.name in NAMES})


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.write(f"{SUITE.relative_to(ROOT)}: recorded\n")
