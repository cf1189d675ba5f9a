"""The history of a running stack: from facts to rows, and from archive, records and stream to the same rows."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from tests.support.stack import OCF, Project, Stack, until

TABLES = ("task_executions", "execution_labels", "execution_attempts", "execution_events")


@pytest.fixture
async def project(stack: Stack) -> AsyncIterator[Project]:
    async with stack.project() as found:
        yield found


def rows(stack: Stack, project: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a project by table, without the database's own number."""
    with closing(sqlite3.connect(stack.data_dir / "history.db", timeout=10)) as connection:
        found = {}
        for table in TABLES:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
            query = f"SELECT {', '.join(names)} FROM {table} WHERE project_id = ?"
            found[table] = sorted(connection.execute(query, (project,)), key=repr)
        return found


async def tasks(stack: Stack, project: str, query: str = "") -> list[dict[str, Any]]:
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"]) as client:
        answer = await client.get(f"/tasks?project_id={project}{query}")
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


async def ocf(stack: Stack, *arguments: str) -> dict[str, Any]:
    """Run `ocf ... --json` on the stack."""
    command = [str(OCF), "--data-dir", str(stack.data_dir), *arguments, "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(300)
async def test_facts_become_rows_and_a_rebuild_gives_the_same(stack: Stack, project: Project) -> None:
    """Two executions, one of them deleted: rows of the other only, also after everything is written again."""
    kept = await project.submit("Say hello to the history", labels={"team": "a"})
    gone = await project.submit("Say goodbye")
    for execution in (kept, gone):
        await project.when(execution, lambda record: record.archived, timeout=90)
    await until(lambda: tasks_archived(stack, project, 2), timeout=60, what="rows")
    (found,) = await tasks(stack, project.name, "&q=hello%20hist&label=team%3Da")
    assert (found["execution_id"], found["status"], found["attempt"]) == (kept, "completed", 1)
    used = await ocf(stack, "usage", "--by", "project,label", "--project", project.name)
    (row,) = used["usage"]
    assert (row["project"], row["label"], row["runs"], row["completed"]) == (project.name, "team=a", 1, 1)
    await project.client.delete(gone)

    async def one_left() -> bool:
        return [row[1] for row in rows(stack, project.name)["task_executions"]] == [kept]

    await until(one_left, timeout=60, what="the rows of the deleted execution are removed")
    before = rows(stack, project.name)
    assert gone not in repr(before)
    types = [row[3] for row in before["execution_events"]]
    assert sorted(types) == [f"dev.ocf.task.{what}.v1" for what in ("accepted", "completed", "started")]
    with closing(sqlite3.connect(stack.data_dir / "history.db", timeout=10)) as connection, connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE project_id = ?", (project.name,))
    assert await tasks(stack, project.name) == []
    for _ in range(2):
        assert (await ocf(stack, "history", "rebuild"))["unreadable"] == 0
        assert rows(stack, project.name) == before


async def tasks_archived(stack: Stack, project: Project, count: int) -> bool:
    items = await tasks(stack, project.name)
    return len(items) == count and all(item["archived"] for item in items)
