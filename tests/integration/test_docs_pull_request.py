"""docs/tutorial-pull-request.md: its commands, one after the other, with the real OpenCode and the offline model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_docs_run import block
from tests.support.offline import OPENCODE, ROOT
from tests.support.stack import running_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]
PAGE = "docs/tutorial-pull-request.md"
STEPS = ("forge", "credential", "rule", "build", "watch", "again")


def test_the_tutorial_ends_with_a_pull_request_that_builds(tmp_path: Path) -> None:
    """From the failing build to the branch whose tests pass; the same event again starts nothing."""
    folder = tmp_path / "forge"
    script = "set -euo pipefail\n" + "\n".join(block(PAGE, step) for step in STEPS) + "\nbash /tmp/forge/build.sh 1\n"
    command = [sys.executable, "-m", "demo.forge", str(folder)]
    with running_stack(tmp_path / "stack", OPENCODE_BIN=str(OPENCODE), OCF_MODEL="", OCF_MODEL_ENDPOINT="") as stack:
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "OCF_DATA_DIR": str(stack.data_dir),
            "GATEWAY": stack.answer["gateway"],
        }
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as forge:
            try:
                done = subprocess.run(
                    ["bash", "-c", script.replace("/tmp/forge", str(folder))],
                    env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
                )  # fmt: skip
            finally:
                forge.terminate()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    first, _, last = done.stdout.partition("build 2 passed")
    assert "build 1 failed" in first
    assert "pushing branch mend/build-1" in first
    assert "1 mend/build-1 Mend build 1 http" in first
    assert first.count('"executions":["') == last.count('"executions":["') == 1
    assert first.split('"executions":["')[1][:36] == last.split('"executions":["')[1][:36]
