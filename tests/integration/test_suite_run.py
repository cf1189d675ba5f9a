"""`ocf suite run` against a whole stack, with the real OpenCode and the offline model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import junitparser
import pytest
import yaml

from tests.support.offline import DEMO_PROMPT, DEMO_REPO, OPENCODE, ROOT
from tests.support.stack import running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]
SUITE = ROOT / "tests/suite"


async def test_a_recorded_execution_and_the_suite_of_the_pinned_agent_do_the_same(tmp_path: Path) -> None:
    """Run again from the archive and from the files of tests/suite: the same patch, result and calls, and JUnit says
    so. Another OpenCode that asks the model something else fails here."""
    with running_stack(tmp_path / "stack", OPENCODE_BIN=str(OPENCODE), OCF_MODEL="", OCF_MODEL_ENDPOINT="") as stack:
        env = {**os.environ, "OCF_DATA_DIR": str(stack.data_dir)}
        env = {name: value for name, value in env.items() if name in ("PATH", "OCF_DATA_DIR")}

        def ocf(*words: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "ocf.cli.main", *words]
            return subprocess.run(
                argv, env={**env, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=400, check=False
            )

        sources = stack.data_dir.parent / "sources"
        shutil.copytree(DEMO_REPO, sources / "repo", dirs_exist_ok=True)
        done = ocf("run", DEMO_PROMPT, "--dir", str(sources / "repo"), "--json")
        assert done.returncode == 0, done.stderr
        execution = json.loads(done.stdout.splitlines()[-1])["execution_id"]

        async def is_archived() -> bool:
            return json.loads(ocf("status", execution, "--json").stdout)["archived"] is True

        await until(is_archived, timeout=60, what="the archive")
        entries: list[dict[str, Any]] = [{"name": "by id", "execution": execution}]
        entries += yaml.safe_load((SUITE / "opencode.suite.yaml").read_text())["executions"]
        shutil.copytree(SUITE, tmp_path, dirs_exist_ok=True)
        suite, junit = tmp_path / "suite.yaml", tmp_path / "junit.xml"
        suite.write_text(json.dumps({"same": ["diff", "result", "calls"], "executions": entries}))
        done = ocf("suite", "run", str(suite), "--json", "--junit", str(junit))
        assert done.returncode == 0, done.stdout + done.stderr
        rows = json.loads(done.stdout)["executions"]
        assert [row["result"] for row in rows] == ["same"] * 5, rows
        (found,) = list(junitparser.JUnitXml.fromfile(str(junit)))
        assert (found.tests, found.failures, found.errors) == (5, 0, 0)
