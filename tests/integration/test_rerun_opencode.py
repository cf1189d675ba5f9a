"""Reruns with the real OpenCode: recorded runs end the same way again when no model and no key is left."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.offline import OPENCODE, ROOT
from tests.support.rerun_apart import archived
from tests.support.sessions import call, opened
from tests.support.stack import Project, Stack, running_stack
from tests.support.step_model import StepModel, prompt, step_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(900),
]

WORK = prompt(
    {"tool": "bash", "args": {"command": "pwd > where.txt && printf '%s\\n' one two > list.txt", "description": "d"}},
    {"tool": "write", "args": {"filePath": "{dir}/made.py", "content": "print('hello')\n"}},
    {"tool": "bash", "args": {"command": "python3 made.py && cat list.txt", "description": "d"}},
    {"say": "All is done in {dir}."},
)
FAILING = prompt(
    {"tool": "bash", "args": {"command": "cat missing.txt; exit 3", "description": "d"}},
    {"tool": "read", "args": {"filePath": "{dir}/missing.txt"}},
    {"tool": "write", "args": {"filePath": "{dir}/fixed.txt", "content": "after a failure\n"}},
    {"say": "Two tools failed."},
)
LENGTH = prompt(
    {"tool": "bash", "args": {"command": "echo half > half.txt", "description": "d"}},
    {"say": "This is cut", "finish": "length"},
)
CANCELLED = prompt({"tool": "bash", "args": {"command": "echo begun > begun.txt", "description": "d"}}, {"wait": True})


#: How each kind ends, the first time and every other.
ENDS = {
    "work.ocf.tar": ("completed", None),
    "failing.ocf.tar": ("completed", None),
    "length.ocf.tar": ("failed", "model_error"),
    "cancelled.ocf.tar": ("cancelled", None),
    "killed.ocf.tar": ("cancelled", None),
    "turn-3.ocf.tar": ("completed", None),
}


async def originals(stack: Stack, project: Project, model: StepModel) -> dict[str, str]:
    """One execution of each kind; returns their ids."""
    found: dict[str, str] = {}
    for name, text in (("work", WORK), ("failing", FAILING), ("length", LENGTH)):
        found[name] = await project.submit(text, recording="full")
    for execution in found.values():
        await archived(project, execution)
    found["cancelled"] = await project.submit(CANCELLED, recording="full")
    await asyncio.wait_for(model.waiting.wait(), 120)
    model.waiting.clear()
    await call(project, "POST", f"/tasks/{found['cancelled']}/cancel", {"why": "too slow"})
    await archived(project, found["cancelled"])
    # The first attempt's worker is killed in the middle of a call, the second's answer is let through.
    found["killed"] = await project.submit(CANCELLED, retry={"max_attempts": 2}, recording="full")
    await asyncio.wait_for(model.waiting.wait(), 120)
    model.waiting.clear()
    await stack.back("execute", stack.kill("execute"), timeout=120)
    await asyncio.wait_for(model.waiting.wait(), 240)
    await call(project, "POST", f"/tasks/{found['killed']}/cancel", {"why": "seen enough"})
    await archived(project, found["killed"])
    session = await opened(project)
    for number in (1, 2, 3):
        text = prompt({"tool": "bash", "args": {"command": f"echo turn {number} >> turns.txt", "description": "d"}})
        found[f"turn {number}"] = await project.submit(text, session_id=session, recording="full")
        await archived(project, found[f"turn {number}"])
    return {name: execution for name, execution in found.items() if name not in ("turn 1", "turn 2")}


def exported(data_dir: Path, project: str, execution: str, target: Path) -> Path:
    """`ocf export`."""
    argv = [sys.executable, "-m", "ocf.cli.main", "export", execution, "-o", str(target), "--project", project]
    env = {"PATH": os.environ["PATH"], "HOME": str(target.parent), "OCF_DATA_DIR": str(data_dir)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_again_apart(folder: Path, bundles: Sequence[Path]) -> dict[str, Any]:
    """Run the bundles again on a second stack: without any network but loopback where this user may have that."""
    argv = [sys.executable, "-m", "tests.support.rerun_apart", str(folder), *map(str, bundles)]
    apart = ["unshare", "--net", "--"] if os.geteuid() == 0 else []
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [*apart, *argv], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout
    return dict(json.loads(done.stdout.splitlines()[-1]))


async def recorded_bundles(folder: Path) -> list[Path]:
    """Bundles of one execution of each kind; model and stack are gone afterwards."""
    bundles = []
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(step_model())
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        running = stack.enter_context(running_stack(folder / "a", **environ, OPENCODE_API_KEY="sk-operators-own-key"))
        project = await stack.enter_async_context(running.project())
        for name, execution in (await originals(running, project, model)).items():
            target = folder / f"{name.replace(' ', '-')}.ocf.tar"
            bundles.append(await asyncio.to_thread(exported, running.data_dir, project.name, execution, target))
    return bundles


async def test_bundles_of_recorded_runs_end_the_same_way_on_a_machine_without_model_key_and_network(
    tmp_path: Path,
) -> None:
    """Shell and files, failing tools, `length`, a cancel, a killed worker, a session's third turn: from its bundle
    alone, on a data directory that has never seen it, each rerun makes the same calls, the last one with the same
    outcome, and ends in the same state with the same diff, at no cost, with no difference to report."""
    bundles = await recorded_bundles(tmp_path)
    found = await asyncio.to_thread(run_again_apart, tmp_path / "b", bundles)
    assert len(found) == len(bundles) == 6
    for name, one in found.items():
        was, now = one["was"], one["now"]
        about = (name, was["status"], was.get("message"), now["status"], now.get("message"), now.get("rerun"))
        assert now["status"] == was["status"], about
        assert now.get("reason") == was.get("reason"), about
        assert now["rerun_of"] == was["execution_id"]
        assert now["rerun"]["divergences"] == [], about
        assert now["rerun"]["calls"] == len(one["calls"][0]) > 0, about
        assert one["calls"][1] == one["calls"][0], about
        assert (now["usage"]["cost_usd"], now["usage"]["requests"]) == (0, 0), about
        here, there = one["diffs"]
        # The one line that says where it ran.
        assert [line for line in here.splitlines() if "/workspace" not in line and "index " not in line] == [
            line for line in there.splitlines() if "/workspace" not in line and "index " not in line
        ], about
    ends = {name: (one["now"]["status"], one["now"].get("reason")) for name, one in found.items()}
    assert ends == ENDS
