"""Reruns with the real OpenCode: recorded runs end the same way again when no model and no key is left."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.offline import OPENCODE
from tests.support.sessions import call, opened
from tests.support.stack import Project, Stack, running_stack, until
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


async def diff(project: Project, execution: str) -> str:
    async with httpx.AsyncClient(base_url=project.stack.answer["gateway"], trust_env=False, timeout=20) as http:
        answer = await http.get(f"/tasks/{execution}/diff", params={"project_id": project.name})
    return answer.text


async def archived(project: Project, execution: str) -> dict[str, Any]:
    """The status of an ended execution, once its archive is complete."""
    await project.ended(execution, timeout=240)

    async def look() -> Any:
        found = await call(project, "GET", f"/tasks/{execution}/status")
        return found if found["archived"] else None

    return dict(await until(look, timeout=60, what="its archive"))


async def again(project: Project, execution: str, **body: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=project.stack.answer["gateway"], trust_env=False, timeout=20) as http:
        answer = await http.post(f"/tasks/{execution}/rerun", params={"project_id": project.name}, json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["rerun_of"] == execution
    return await archived(project, answer.json()["execution_id"])


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
    for number in (1, 2):
        text = prompt({"tool": "bash", "args": {"command": f"echo turn {number} >> turns.txt", "description": "d"}})
        found[f"turn {number}"] = await project.submit(text, session_id=session, recording="full")
        await archived(project, found[f"turn {number}"])
    return found


async def test_recorded_runs_end_the_same_way_without_model_and_key(tmp_path: Path) -> None:
    """Shell and files, failing tools, `length`, a cancel, a killed worker, a session's second turn: the model's server
    is gone, and each rerun ends in the same state with the same diff, at no cost, with no difference to report."""
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(AsyncExitStack())
        model = await serving.enter_async_context(step_model())
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        running = stack.enter_context(running_stack(tmp_path, **environ, OPENCODE_API_KEY="sk-operators-own-key"))
        project = await stack.enter_async_context(running.project())
        made = await originals(running, project, model)
        await serving.aclose()
        asked = model.requests
        for name, execution in made.items():
            was = await archived(project, execution)
            now = await again(project, execution)
            about = (name, was["status"], was.get("message"), now["status"], now.get("message"), now.get("rerun"))
            assert now["status"] == was["status"], about
            assert now.get("reason") == was.get("reason"), about
            assert now["rerun_of"] == execution
            assert now["rerun"]["divergences"] == [], about
            assert now["rerun"]["calls"] > 0, about
            assert (now["usage"]["cost_usd"], now["usage"]["requests"]) == (0, 0), about
            here, there = await diff(project, execution), await diff(project, now["execution_id"])
            # The one line that says where it ran.
            assert [one for one in here.splitlines() if "/workspace" not in one and "index " not in one] == [
                one for one in there.splitlines() if "/workspace" not in one and "index " not in one
            ], about
        assert model.requests == asked
