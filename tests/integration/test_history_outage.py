"""The history's database goes away under a running stack: executions go on, and the history catches up."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import create_engine, text

from tests.support.database import Postgres, postgres
from tests.support.stack import Project, Stack, running_stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture(scope="module")
def stack(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(Path(tmp_path_factory.mktemp("stack")), DATABASE_URL=server.url) as found:
        yield found


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as found:
        yield found


async def rows(client: httpx2.AsyncClient, project: str) -> dict[str, str]:
    answer = await client.get(f"/tasks?project_id={project}")
    return {item["execution_id"]: item["status"] for item in answer.json()["items"]} if answer.is_success else {}


async def run_one(project: Project) -> str:
    execution = await project.submit("Say hello")
    await project.archived(execution, timeout=90)
    return execution


def refuse(server: Postgres, *, whole: bool) -> None:
    """Take the right to connect from the functions' user, or give it back."""
    engine = create_engine(server.url_of("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE ocf ALLOW_CONNECTIONS {'true' if whole else 'false'}"))
        if not whole:
            connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ocf'"))
    engine.dispose()


@pytest.mark.parametrize("fault", ["crash", "stop", "silence", "refusal"])
async def test_executions_go_on_without_the_database(
    fault: str, stack: Stack, server: Postgres, client: httpx2.AsyncClient
) -> None:
    """Killed, stopped, silent (SIGSTOP) or refusing: a run completes and is archived meanwhile, its status is there;
    lists say why there are none, readiness says how many facts are missing; afterwards every row comes."""
    async with stack.project() as project:
        first = await run_one(project)

        async def written() -> bool:
            return (await rows(client, project.name)).get(first) == "completed"

        await until(written, timeout=60, what="the first row")
        if fault in ("crash", "stop"):
            server.stop(signal.SIGQUIT if fault == "crash" else signal.SIGINT)
        elif fault == "silence":
            server.signal(signal.SIGSTOP)
        else:
            refuse(server, whole=False)
        try:
            second = await run_one(project)
            status = await client.get(f"/tasks/{second}/status?project_id={project.name}")
            assert status.json()["status"] == "completed"
            listed = await client.get(f"/tasks?project_id={project.name}")
            assert (listed.status_code, "database" in listed.json()["detail"]) == (503, True)

            async def behind() -> Any:
                ready = (await client.get("/ready")).json()
                assert ready["ready"]
                return not ready["checks"]["history"]["ok"]

            await until(behind, timeout=30, what="readiness that names the history")
        finally:
            if fault in ("crash", "stop"):
                server.start()
            elif fault == "silence":
                server.signal(signal.SIGCONT)
            else:
                refuse(server, whole=True)

        async def caught_up() -> bool:
            answer = await client.get(f"/tasks?project_id={project.name}")
            found = answer.json()["items"] if answer.is_success else []
            rows = {item["execution_id"]: (item["status"], item["archived"]) for item in found}
            return rows == {first: ("completed", True), second: ("completed", True)}

        await until(caught_up, timeout=90, what="the history catches up")
        dead = [message.subject async for message in project.bus.history("OCF_DLQ", "ocf.dlq.history.>")]
        assert dead == []
