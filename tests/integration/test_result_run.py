"""From a task to a pull request: the real OpenCode in a real clone, a whole stack, and a forge."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from ocf.functions.models.offline_model import OfflineModel
from tests.support.forge import TOKEN, StandIn, stand_in
from tests.support.offline import OPENCODE, ROOT, offline_spec
from tests.support.publishing import FILES
from tests.support.stack import Project, Stack, running_stack, until
from tests.support.webhooks import example, github

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]


async def submitted(client: httpx2.AsyncClient, project: str, url: str, prompt: str = "run-write", **more: Any) -> str:
    workspace = {"source": "git", "url": url, "credential": "bot"}
    body = {"prompt": prompt, "project_id": project, "workspace": workspace, "result": {"branch": "ocf/left"}}
    answer = await client.post("/tasks/execute", json=body | more, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


async def with_credential(client: httpx2.AsyncClient, project: Project, api_url: str) -> None:
    body = {"name": "bot", "project_id": project.name, "forge": "gitea", "api_url": api_url, "token": TOKEN}
    answer = await client.post("/credentials", json=body)
    assert answer.status_code == 201, answer.text


def killing(stack: Stack, forge: StandIn) -> list[int]:
    """Kill the worker and its parent at the next call that opens a pull request; the list then has its pid."""
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
    return killed


async def test_a_run_becomes_a_pull_request_also_when_its_worker_is_killed(tmp_path: Path) -> None:
    """Twice: undisturbed, and with the worker killed between push and pull request. Each makes exactly one of each;
    the token is in no output, and no agent process sees it."""
    cases = [ROOT / "tests/support/task-field-run-cases.json"]
    with stand_in(tmp_path / "forge", FILES) as forge:
        async with OfflineModel(offline_spec(cases)) as model:
            environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted"}
            environ |= {"OCF_MODEL_ENDPOINT": model.base_url}
            with running_stack(tmp_path, **environ) as stack:
                async with stack.project() as project, httpx2.AsyncClient(base_url=stack.answer["gateway"]) as client:
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

                    killed = killing(stack, forge)
                    result = {"branch": "ocf/again"}
                    execution = await submitted(client, project.name, forge.url, result=result)
                    record = await project.ended(execution, timeout=200)
                    assert killed
                    assert (record.state, len(record.attempts)) == ("completed", 2), record
                    assert [one["head"]["ref"] for one in forge.pulls] == ["ocf/left", "ocf/again"]
                    assert forge.commits("ocf/again") == [record.commit, forge.head("main")]
                    assert record.result == "Written."

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


def webhook(forge: StandIn) -> dict[str, Any]:
    """GitHub's published payload of a labelled issue, with its repository on this machine."""
    payload = example("issues", "labeled")
    payload["repository"] |= {"full_name": "team/app", "clone_url": forge.url}
    return payload


async def test_a_signed_webhook_becomes_one_pull_request_and_one_comment(tmp_path: Path) -> None:
    """Five deliveries of a published payload, and a worker that is killed between push and pull request: the real
    OpenCode in a real clone, one branch, the right diff, one pull request and comment. A stranger starts nothing."""
    cases = [ROOT / "tests/support/task-field-run-cases.json"]
    rule = {
        "name": "labelled",
        "on": {"type": "com.github.issues.labeled", "where": 'event.data.label.name == "bug"'},
        "task": {
            "prompt": "run-write: {{ event.data.issue.title }}",
            "workspace": {"source": "git", "url": None, "credential": "bot"},
            "result": {"branch": "agent/issue-{{ event.data.issue.number }}"},
        },
        "reply": "comment",
    }
    with stand_in(tmp_path / "forge", FILES) as forge:
        rule["task"]["workspace"]["url"] = forge.url  # type: ignore[index]
        payload = webhook(forge)
        async with OfflineModel(offline_spec(cases)) as model:
            environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted"}
            environ |= {"OCF_MODEL_ENDPOINT": model.base_url}
            with running_stack(tmp_path, **environ) as stack:
                async with (
                    stack.project() as project,
                    httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as client,
                ):
                    ids = {"project_id": project.name}
                    credential = {
                        "name": "bot",
                        "forge": "github",
                        "api_url": f"{forge.git.url}/api/v3",
                        "token": TOKEN,
                    }
                    assert (await client.post("/credentials", json=credential | ids)).status_code == 201
                    answer = await client.post("/triggers", json=rule | ids)
                    assert answer.status_code == 201, answer.text
                    hook = (await client.post("/hooks", json={"kind": "github", **ids})).json()

                    async def deliver(number: int) -> list[str]:
                        headers, body = github("issues", payload, hook["secret"], str(number))
                        got = await client.post(hook["url"], content=body, headers=headers)
                        assert got.status_code == 202, got.text
                        found: list[str] = got.json()["events"][0]["executions"]
                        return found

                    forge.roles = {"Codertocat": "write"}
                    killed = killing(stack, forge)
                    ((execution,),) = {tuple(await deliver(number)) for number in range(5)}
                    record = await project.ended(execution, timeout=300)
                    assert killed
                    assert (record.state, len(record.attempts)) == ("completed", 2), record

                    async def commented() -> bool:
                        return bool(forge.notes)

                    await until(commented, timeout=60, what="the comment")
                    await deliver(6)
                    branch = f"agent/issue-{payload['issue']['number']}"
                    (pull,) = forge.pulls
                    assert (pull["head"]["ref"], pull["base"]["ref"]) == (branch, "main")
                    assert forge.tree(branch)["notes/left.txt"] == "100644 LEFT-BEHIND"
                    assert forge.commits(branch) == [record.commit, forge.head("main")]
                    (note,) = forge.notes
                    assert note["issue"] == payload["issue"]["number"]
                    assert pull["html_url"] in note["body"]
                    assert "Written." in note["body"]
                    items = (await client.get("/tasks", params=ids)).json()["items"]
                    assert [one["execution_id"] for one in items] == [execution]

                    payload["sender"]["login"] = "stranger"
                    payload["issue"]["updated_at"] = "2030-01-01T00:00:00Z"  # another change: the id tells what changed
                    await deliver(7)

                    async def refused() -> bool:
                        return "stranger has none" in (await client.get("/triggers", params=ids)).text

                    await until(refused, timeout=60, what="the refusal")
                    assert len((await client.get("/tasks", params=ids)).json()["items"]) == 1
