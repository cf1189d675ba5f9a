"""The distribution on a machine that has no checkout: docs/how-to/install-with-pip.md as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.integration.test_docs_run import ROOT, block
from tests.support.wheels import build, run

PAGE = "docs/how-to/install-with-pip.md"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_an_installed_distribution_runs_a_task_with_real_opencode(tmp_path: Path) -> None:
    """With an empty HOME: pip, `ocf install`, `ocf up`, `ocf run` complete a task; `opensearch-py` works beside it."""
    build(tmp_path, "clients/python")
    build(tmp_path)
    shutil.copytree(ROOT / "demo/repo", tmp_path / "repo")
    stopped = "trap 'agents/bin/ocf down >/dev/null' EXIT\n"
    said = run(tmp_path, stopped + block(PAGE, "install"), timeout=1400)
    size = re.search(r"^[\d.]+ s · ([\d.]+ [kMG]B) downloaded$", said, re.MULTILINE)
    assert size, said
    assert re.search(r"✓ completed · .* · 1 file \+1 −1 · offline/scripted", said), said
    assert said.endswith("stopped\n")
    # OpenSearch's client needs the distribution Events, whose import name is `events`.
    activated = ". agents/bin/activate\n"
    beside = 'python -c "import opensearchpy, events, ocf.events; print(events.Events, ocf.connect)"'
    assert "events.events.Events" in run(tmp_path, f"{activated}pip install -q opensearch-py\n{beside}", timeout=300)
    again = run(tmp_path, f"{activated}ocf install --json\nocf completion bash", timeout=60)
    assert '"installed": []' in again
    complete = f"{activated}_OCF_COMPLETE=complete_bash COMP_WORDS='ocf inst' COMP_CWORD=1 ocf"
    assert run(tmp_path, complete, timeout=60) == "install\n"
