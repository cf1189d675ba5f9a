"""From an event to an accepted execution, on the embedded stack with its real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.events.lifecycle import State
from tests.integration.test_docs_run import ROOT, block
from tests.support.stack import Project, Stack, until
from tests.support.webhooks import example, github

RULE = {
    "name": "labelled",
    "on": {
        "type": "com.github.issues.labeled",
        "where": 'event.data.label.name == "bug"',
        "actors": {"permission": "any"},
    },
    "task": {"prompt": "Fix {{ event.data.issue.title }}"},
}


async def test_a_webhook_that_is_delivered_five_times_is_one_execution(stack: Stack, project: Project) -> None:
    """GitHub's published payload, signed by GitHub's library, through gateway, inbox, trigger, submit and execute."""
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as client:
        assert (await client.post("/triggers", json=RULE | {"project_id": project.name})).status_code == 201
        hook = (await client.post("/hooks", json={"kind": "github", "project_id": project.name})).json()
        headers, body = github("issues", example("issues", "labeled"), hook["secret"])
        answers = [
            await client.post(hook["url"], content=body, headers={**headers, "X-GitHub-Delivery": str(number)})
            for number in range(5)
        ]
        assert {answer.status_code for answer in answers} == {202}
        ((execution,),) = {tuple(answer.json()["events"][0]["executions"]) for answer in answers}
        record = await project.ended(execution, 60)
        assert (record.state, record.labels) == (State.COMPLETED, {"trigger": "labelled"})
        found = (await client.get("/tasks", params={"project_id": project.name})).json()["items"]
        assert [one["execution_id"] for one in found] == [execution]
        (rule,) = (await client.get("/triggers", params={"project_id": project.name})).json()["triggers"]
        assert rule["matched"] == 1


async def test_a_backend_publishes_an_event_straight_to_the_inbox(stack: Stack, project: Project) -> None:
    """With its own credentials; a rule that fails on it is a dead letter, and the other one starts its task."""
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as client:
        for name, text in (("good", "go"), ("bad", "{{ event.data.nope }}")):
            task: dict[str, Any] = {"on": {"type": "org.example.found"}, "task": {"prompt": text}}
            rule = {"name": name, "project_id": project.name, **task}
            assert (await client.post("/triggers", json=rule)).status_code == 201
        event = {"specversion": "1.0", "id": "1", "source": "/scan", "type": "org.example.found", "data": {}}
        subject = subjects.inbox(project.name, "scanner")
        backend = await connect(stack.answer["nats"], creds=Path(stack.answer["nats_creds"]), name="backend")
        await backend.publish(subject, json.dumps(event).encode(), {})
        await backend.close()
        letter = await project.dead_letter(subject, 60)
        assert "rule bad: task.prompt: the event has no nope" in letter["Ocf-Dlq-Reason"]

        async def listed() -> list[dict[str, Any]]:
            items = (await client.get("/tasks", params={"project_id": project.name})).json()["items"]
            return [one for one in items if one["labels"] == {"trigger": "good"}]

        assert len(await until(listed, what="the execution of the rule good")) == 1


def shell(stack: Stack, folder: Path, script: str) -> str:
    """What a block of a page prints."""
    (folder / "ocf").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocf.cli.main "$@"\n')
    (folder / "ocf").chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environ |= {"OCF_GATEWAY": stack.answer["gateway"]}
    argv = ["bash", "-euc", script]
    done = subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_schedules_work(stack: Stack, tmp_path: Path) -> None:
    """Of docs/how-to/schedule-tasks.md."""
    said = shell(stack, tmp_path, block("docs/how-to/schedule-tasks.md", "schedule"))
    assert "nightly  0 6 * * 1-5 Europe/Berlin  next " in said
    assert "paused         true" in said


def test_the_commands_of_the_page_work(stack: Stack, tmp_path: Path) -> None:
    """A rule is applied, tested with a published payload, and listed."""
    page = "docs/how-to/start-tasks-from-events.md"
    (tmp_path / "rule.yaml").write_text(block(page, "rule").replace('"agent"', '"bug"'))
    payload = example("issues", "labeled")
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "com.github.issues.labeled", "data": payload}
    (tmp_path / "event.json").write_text(json.dumps(event))
    said = shell(stack, tmp_path, block(page, "apply"))
    assert "Spelling error in the README file" in said
    assert "labelled  type com.github.issues.labeled  matched 0" in said
