"""From a task to a pull request: the real OpenCode in a real clone, a whole stack, and a forge."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ocf.functions.models.offline_model import OfflineModel
from tests.support.forge import TOKEN, stand_in
from tests.support.offline import OPENCODE, ROOT, offline_spec
from tests.support.publishing import FILES
from tests.support.stack import Project, running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]


async def submitted(client: httpx.AsyncClient, project: str, url: str, prompt: str = "run-write", **more: Any) -> str:
    workspace = {"source": "git", "url": url, "credential": "bot"}
    body = {"prompt": prompt, "project_id": project, "workspace": workspace, "result": {"branch": "ocf/left"}}
    answer = await client.post("/tasks/execute", json=body | more, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


async def with_credential(client: httpx.AsyncClient, project: Project, api_url: str) -> None:
    body = {"name": "bot", "project_id": project.name, "forge": "gitea", "api_url": api_url, "token": TOKEN}
    answer = await client.post("/credentials", json=body)
    assert answer.status_code == 201, answer.text


async def test_a_run_becomes_a_pull_request_also_when_its_worker_is_killed(tmp_path: Path) -> None:
    """Twice: undisturbed, and with the worker killed between push and pull request. Each makes exactly one of each;
    the token is in no output, and no agent process sees it."""
    cases = [ROOT / "tests/support/task-field-run-cases.json"]
    with stand_in(tmp_path / "forge", FILES) as forge:
        async with OfflineModel(offline_spec(cases)) as model:
            environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted"}
            environ |= {"OCF_MODEL_ENDPOINT": model.base_url}
            with running_stack(tmp_path, **environ) as stack:
                async with stack.project() as project, httpx.AsyncClient(base_url=stack.answer["gateway"]) as client:
                    await with_credential(client, project, forge.api_url)
                    execution = await submitted(client, project.name, forge.url)
                    record = await project.ended(execution, timeout=200)
                    assert (record.state, record.branch) == ("completed", "ocf/left"), record
                    assert record.commit == forge.head("ocf/left")
                    left = {"notes/left.txt": "100644 LEFT-BEHIND"}
                    assert forge.tree("ocf/left") == {path: f"100644 {text}" for path, text in FILES.items()} | left
                    (pull,) = forge.pulls
                    assert pull["body"].startswith("Written.")
                    assert f"{stack.answer['gateway']}/#/tasks/{execution}" in pull["body"]
                    said = "".join(chunk.data for chunk in await project.chunks(execution))
                    assert "pull request http" in said
                    assert TOKEN not in said

                    killed: list[int] = []

                    def kills(method: str, path: str) -> int | None:
                        if method != "POST" or not path.endswith("/pulls") or killed:
                            return None
                        parent = psutil.Process(stack.pid("execute") or 0)
                        for process in (*parent.children(recursive=True), parent):
                            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                                os.kill(process.pid, signal.SIGKILL)
                        killed.append(parent.pid)
                        return 503

                    forge.before = kills
                    result = {"branch": "ocf/again"}
                    execution = await submitted(client, project.name, forge.url, result=result)
                    record = await project.ended(execution, timeout=200)
                    assert killed
                    assert (record.state, len(record.attempts)) == ("completed", 2), record
                    assert [one["head"]["ref"] for one in forge.pulls] == ["ocf/left", "ocf/again"]
                    assert forge.commits("ocf/again") == [record.commit, forge.head("main")]
                    assert record.result == "Written."

                    forge.git.before_push = lambda: None
                    refused = {"branch": "ocf/left"}
                    execution = await submitted(client, project.name, forge.url, result=refused)
                    record = await project.ended(execution, timeout=200)
                    assert (record.state, record.reason) == ("failed", "result_rejected"), record
                    (forge.root / "team/app.git/refs/heads/ocf/left").unlink()
                    pushed = await client.post(f"/tasks/{execution}/result", params={"project_id": project.name})
                    assert pushed.status_code == 202, pushed.text

                    async def published() -> bool:
                        status = await client.get(f"/tasks/{execution}/status", params={"project_id": project.name})
                        return status.json().get("commit") is not None

                    await until(published, timeout=60, what="the result is pushed")
                    assert forge.tree("ocf/left")["notes/left.txt"] == left["notes/left.txt"]
