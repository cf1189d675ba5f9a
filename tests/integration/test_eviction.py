"""An ended execution on a running stack, before and after it has left NATS: every call answers the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import new_event
from ocf.events.execution_ref import ExecutionRef
from ocf.functions.core import cleanup_schedules
from ocf.functions.core.system_clock import SystemClock
from tests.support.stack import OCF, Project, Stack, running_stack, until

CALLS = ("status", "output?format=json", "diff", "files", "events")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose ended executions may leave at once."""
    with running_stack(tmp_path_factory.mktemp("evicting"), RECORD_GRACE="0") as found:
        yield found


async def evict(project: Project, execution: str) -> None:
    """Send the schedule's command until the execution has left the bucket."""
    entity = cleanup_schedules.EVICTION.entity
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=entity, scope="eviction")

    async def left() -> bool:
        event = new_event("dev.ocf.task.cleanup.v1", data, source="/test", time=SystemClock().now())
        await publish_command(project.bus, event, subjects.SYSTEM_PROJECT)
        ref = ExecutionRef(project.name, execution)
        return await project.bus.last(subjects.COMMANDS, ref.command("submit")) is None

    await until(left, timeout=60, what="the execution leaves NATS")
    for stream, pattern in (
        (subjects.COMMANDS, f"ocf.cmd.*.{project.name}.{execution}"),
        (subjects.EVENTS, f"ocf.evt.{project.name}.{execution}.>"),
        (subjects.OUTPUT, f"ocf.out.{project.name}.{execution}.>"),
        (subjects.OUTPUT, f"ocf.out.{project.name}.{execution}"),
    ):
        assert [message.subject async for message in project.bus.history(stream, pattern)] == []


async def answers(client: httpx2.AsyncClient, project: str, execution: str) -> dict[str, Any]:
    """What each call says, without what only tells when the record was written."""
    found: dict[str, Any] = {}
    for call in CALLS:
        joined = "&" if "?" in call else "?"
        answer = await client.get(f"/tasks/{execution}/{call}{joined}project_id={project}")
        assert answer.status_code == 200, (call, answer.text)
        found[call] = answer.text
    found["status"] = {**json.loads(found["status"]), "updated_at": None}
    lines = [json.loads(line) for line in found["events"].splitlines()]
    # The archive's copy was written before the fact that it is complete.
    found["events"] = [line["id"] for line in lines if not line["type"].endswith(".archived.v1")]
    found["list"] = (await client.get(f"/tasks?project_id={project}")).json()["items"]
    return found


@pytest.mark.timeout(300)
async def test_every_call_answers_the_same_from_the_archive(impatient: Stack) -> None:
    """Status, output, patch, files, events, list; the client too; fork, idempotency and deletion go on."""
    async with (
        impatient.project() as project,
        httpx2.AsyncClient(base_url=impatient.answer["gateway"], timeout=30) as client,
    ):
        body = {"project_id": project.name, "prompt": "Say hello", "labels": {"team": "a"}}
        headers = {"Idempotency-Key": project.name}
        execution = (await client.post("/tasks/execute", json=body, headers=headers)).json()["execution_id"]
        await project.archived(execution, timeout=90)

        async def written() -> bool:
            items = (await client.get(f"/tasks?project_id={project.name}")).json()["items"]
            return len(items) == 1 and items[0]["archived"]

        await until(written, timeout=60, what="the row")
        before = await answers(client, project.name, execution)
        await evict(project, execution)
        assert await answers(client, project.name, execution) == before
        assert (await project.client.status(execution)).state.value == "completed"
        watched = [chunk.seq async for chunk in project.client.watch(execution)]
        assert watched == list(range(1, len(watched) + 1))
        unnamed = await client.get(f"/tasks/{execution}/status")
        assert unnamed.json()["project_id"] == project.name

        again = await client.post("/tasks/execute", json=body, headers=headers)
        assert (again.status_code, again.json()) == (202, {"execution_id": execution, "status": "completed"})
        other = await client.post("/tasks/execute", json={**body, "prompt": "Another"}, headers=headers)
        assert (other.status_code, "another body" in other.json()["detail"]) == (409, True)
        fork = await client.post("/sessions", json={"project_id": project.name, "from_execution_id": execution})
        assert fork.json()["status"] in ("open", "creating")

        assert (await client.delete(f"/tasks/{execution}?project_id={project.name}")).status_code == 202

        async def gone() -> bool:
            status = await client.get(f"/tasks/{execution}/status?project_id={project.name}")
            items = (await client.get(f"/tasks?project_id={project.name}")).json()["items"]
            return status.status_code == 404 and items == [] and await project.objects(execution) == set()

        await until(gone, timeout=60, what="nothing of the execution is left")
        assert (await client.post("/tasks/execute", json=body, headers=headers)).status_code == 410


async def test_a_rejected_execution_is_archived_and_leaves_too(impatient: Stack) -> None:
    """Its events and manifest stay, and its status."""
    async with (
        impatient.project() as project,
        httpx2.AsyncClient(base_url=impatient.answer["gateway"], timeout=30) as client,
    ):
        execution = await project.client.submit(prompt="x", session_id="0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
        await project.archived(execution, timeout=60)
        await until(lambda: archived_row(client, project.name), timeout=60, what="the row")
        await evict(project, execution)
        status = (await client.get(f"/tasks/{execution}/status?project_id={project.name}")).json()
        assert (status["status"], [error["field"] for error in status["errors"]]) == ("rejected", ["session_id"])
        assert {"manifest.json", "events.ndjson"} <= await project.objects(execution)


@pytest.mark.timeout(300)
async def test_executions_are_compared_from_the_archive(impatient: Stack) -> None:
    """Before and after they left NATS: equal runs are the same; else what differs, each part, and exit status 1."""

    def steps(content: str, end: str) -> list[dict[str, Any]]:
        change = {"write": {"path": "kept.txt", "content": content}}
        return [{"text": "look", "chunk": 1}, {"run": "echo seen"}, change, {"text": end}]

    async with (
        impatient.project() as project,
        httpx2.AsyncClient(base_url=impatient.answer["gateway"], timeout=30) as client,
    ):
        runs = [steps("same\n", "done"), steps("same\n", "done"), steps("other\n", "different")]
        one, two, three = [await project.submit(run) for run in runs]
        for execution in (one, two, three):
            await project.archived(execution, timeout=60)
        query = f"?project_id={project.name}"
        same = (await client.get(f"/tasks/{one}/compare/{two}{query}")).json()
        assert (same["same"], same["differs"], same["rows"], same["files"]) == (True, [], [], [])
        before = (await client.get(f"/tasks/{one}/compare/{three}{query}")).json()
        assert before["differs"] == ["tool_calls", "output", "files"]
        last = [row for row in before["rows"] if not row["same"]][-1]
        assert (last["a"]["text"], last["b"]["text"]) == ("done", "different")
        assert [(file["path"], file["change"]) for file in before["files"]] == [("kept.txt", "differs")]
        assert {"-+same", "++other"} <= set(before["files"][0]["lines"])
        for execution in (one, three):
            await evict(project, execution)
        assert (await client.get(f"/tasks/{one}/compare/{three}{query}")).json() == before
        ids, where = [one[:8], three], ["--data-dir", str(impatient.data_dir), "--project", project.name]
        shown = await asyncio.create_subprocess_exec(OCF, "compare", *ids, *where, stdout=asyncio.subprocess.PIPE)
        text, _ = await shown.communicate()
        assert (shown.returncode, b"kept.txt changed differently" in text) == (1, True)


async def archived_row(client: httpx2.AsyncClient, project: str) -> bool:
    items = (await client.get(f"/tasks?project_id={project}")).json()["items"]
    return len(items) == 1 and items[0]["archived"]
