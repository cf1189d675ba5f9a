"""The tutorials with a stack: their commands, one after the other, with the real OpenCode and the offline model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.test_docs_run import block
from tests.support.offline import OPENCODE, ROOT
from tests.support.stack import running_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(1500),
]
PULL_REQUEST = "docs/tutorial-pull-request.md"
WHY = "docs/tutorial-why.md"


def script(page: str, *steps: str) -> str:
    """The blocks of a page, which end at the first command that fails."""
    return "set -euo pipefail\n" + "\n".join(block(page, step) for step in steps)


def test_the_tutorials_end_as_they_say(tmp_path: Path) -> None:
    """From a failing build to a pull request whose branch passes its tests, and the same event again starts nothing;
    from a run that did nothing to another prompt and a suite."""
    with running_stack(tmp_path / "stack", OPENCODE_BIN=str(OPENCODE), OCF_MODEL="", OCF_MODEL_ENDPOINT="") as stack:
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "OCF_DATA_DIR": str(stack.data_dir),
            "GATEWAY": stack.answer["gateway"],
        }

        def run(text: str, cwd: Path) -> str:
            done = subprocess.run(
                ["bash", "-c", text], env=env, cwd=cwd, capture_output=True, text=True, timeout=800, check=False
            )
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            return done.stdout

        with forge(tmp_path / "forge"):
            text = script(PULL_REQUEST, "forge", "credential", "rule", "build", "watch", "again")
            text += "\nbash /tmp/forge/build.sh 1\n"
            said = run(text.replace("/tmp/forge", str(tmp_path / "forge")), tmp_path)
        ends_with_a_pull_request(said)
        # The stack reads directories below its own sources only.
        why = script(WHY, "run", "again", "what-if", "suite", "diverged")
        ends_with_a_suite(run(why.replace("/tmp/why", str(tmp_path / "stack/sources/why")), ROOT))


@contextmanager
def forge(folder: Path) -> Iterator[None]:
    """The tutorial's forge."""
    command = [sys.executable, "-m", "demo.forge", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            yield
        finally:
            process.terminate()


def ends_with_a_pull_request(said: str) -> None:
    first, _, last = said.partition("build 2 passed")
    assert "build 1 failed" in first
    assert "pushing branch mend/build-1" in first
    assert "1 mend/build-1 Mend build 1 http" in first
    assert first.count('"executions":["') == last.count('"executions":["') == 1
    assert first.split('"executions":["')[1][:36] == last.split('"executions":["')[1][:36]


def ends_with_a_suite(said: str) -> None:
    assert "no differences" in said
    assert "it ended after call 1, as asked" in said
    assert "seconds % 3600 // 60" in said
    assert "they differ" in said
    assert "1 of 1 are the same" in said
    assert "diverged" in said.rpartition("1 of 1 are the same")[2]
    assert said.rstrip().endswith("it would come back")
