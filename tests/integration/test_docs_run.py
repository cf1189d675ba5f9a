"""The code in the docs runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]


def block(page: str, mark: str) -> str:
    """The code block below `<!-- run by tests: mark -->`."""
    found = re.search(rf"<!-- run by tests: {mark} -->\n```\w+\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found, f"{page} has no block {mark}"
    return found.group(1)


def run_block(folder: Path, mark: str, *arguments: str) -> str:
    """What that block of docs/how-to/publish-events.md prints, run in `folder`, outside the project."""
    script = folder / f"{mark}.py"
    script.write_text(block("docs/how-to/publish-events.md", mark))
    argv = [sys.executable, str(script), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_task_is_published_with_plain_nats_as_the_page_says(stack: Stack, tmp_path: Path) -> None:
    """The block of docs/how-to/publish-events.md runs with only nats-py: the stream stores it, and it completes."""
    answer = stack.answer
    said = run_block(tmp_path, "publish-structured", answer["nats"], answer["nats_creds"]).split("\n")
    assert said[0].startswith("stored as")
    assert said[1:-1] == ["accepted", "started", "completed"]


def test_a_backend_of_one_project_hears_over_nats_and_commands_over_http(stack: Stack, tmp_path: Path) -> None:
    """Copied from docs/how-to/publish-events.md, with the credentials of `ocf creds --project mine`."""
    argv = [sys.executable, "-m", "ocf.cli.main", "creds", "--project", "mine", "--data-dir", str(stack.data_dir)]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    (tmp_path / "mine.creds").write_text(made.stdout)
    arguments = (stack.answer["gateway"], stack.answer["nats"], str(tmp_path / "mine.creds"))
    assert run_block(tmp_path, "project-backend", *arguments).split() == ["accepted", "started", "completed"]


def test_a_context_is_used_as_the_page_says(stack: Stack, tmp_path: Path) -> None:
    """The block of docs/how-to/use-a-cluster.md runs with the stack's gateway: submit, watch, and a shortened id."""
    (tmp_path / "ocf").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocf.cli.main "$@"\n')
    (tmp_path / "ocf").chmod(0o755)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OCF_")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OCF_CONTEXTS": str(tmp_path / "contexts.json"),
        "GATEWAY": stack.answer["gateway"],
        "TOKEN": "some-token",
    }
    argv = ["bash", "-euc", block("docs/how-to/use-a-cluster.md", "context")]
    done = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    assert "some-token" not in (tmp_path / "contexts.json").read_text() + done.stdout
