"""The history in the cluster's PostgreSQL: rows of every execution, and what happens when the database is replaced."""

from __future__ import annotations

import httpx2
import pytest

from tests.support.cluster import NEEDS_CLUSTER, Cluster, gateway, kubectl, until

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(900)]


async def rows(http: httpx2.AsyncClient, here: Cluster, **wanted: str) -> dict[str, str]:
    """The project's executions in the list, with their states; none while the database is away."""
    answer = await http.get("/tasks", params={"project_id": here.project, **wanted})
    return {one["execution_id"]: one["status"] for one in answer.json()["items"]} if answer.is_success else {}


async def written(http: httpx2.AsyncClient, here: Cluster, execution: str, **wanted: str) -> None:
    """Wait until the list has it, as completed."""

    async def there() -> bool:
        return (await rows(http, here, **wanted)).get(execution) == "completed"

    await until(f"{execution} in the history", there, 120)


async def test_an_execution_is_found_summed_up_and_read_with_sql(here: Cluster) -> None:
    """Every gateway answers from PostgreSQL: the list, a search by a word of the prompt, usage; and so does SQL."""
    execution = await here.client.submit(prompt="Say hello quintessentially")
    await here.archived(execution, timeout=300)
    async with gateway(here) as http:
        await written(http, here, execution)
        await written(http, here, execution, q="quintess")
        assert await rows(http, here, q="absent") == {}
        usage = (await http.get("/usage", params={"project_id": here.project, "group_by": "project"})).json()["usage"]
    assert [(one["project"], one["runs"], one["completed"]) for one in usage] == [(here.project, 1, 1)]
    query = f"SELECT status FROM task_executions WHERE execution_id = '{execution}'"
    shell = f'PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U ocf -d ocf -At -c "{query}"'
    assert (await kubectl("exec", "postgres-0", "--", "sh", "-c", shell)).strip() == "completed"


async def test_the_database_is_replaced_under_executions(here: Cluster) -> None:
    """Without PostgreSQL an execution completes and is archived, and lists say why there are none; a new pod has the
    rows of before, and those of meanwhile come without a hand."""
    before = await here.client.submit(prompt="Say hello")
    await here.archived(before, timeout=300)
    async with gateway(here) as http:
        await written(http, here, before)
        await kubectl("scale", "statefulset/postgres", "--replicas=0")
        await kubectl("wait", "pod/postgres-0", "--for=delete", "--timeout=60s", timeout=70)
        try:
            meanwhile = await here.client.submit(prompt="Say hello")
            await here.archived(meanwhile, timeout=300)
            answer = await http.get("/tasks", params={"project_id": here.project})
            assert answer.status_code == 503, answer.text
            assert "the database: " in answer.json()["detail"]
            status = await http.get(f"/tasks/{meanwhile}/status", params={"project_id": here.project})
            assert status.json()["status"] == "completed"
            ready = await http.get("/ready")
            assert ready.status_code == 200
        finally:
            await kubectl("scale", "statefulset/postgres", "--replicas=1")
        await written(http, here, meanwhile)
        assert set(await rows(http, here)) == {before, meanwhile}
