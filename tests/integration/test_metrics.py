"""The numbers that alerts go by, read where Prometheus reads them while a real stack works; and its logs."""

from __future__ import annotations

import json

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ocf.functions.dispatcher.routes import ROUTES
from tests.support.stack import Project, Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
FOREVER = [{"text": "I am up"}, {"sleep": 3600}]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(stack: Stack, process: str) -> Series:
    """`/metrics` of one of its processes."""
    ports = json.loads((stack.data_dir / "ports.json").read_text())
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = (await http.get(f"http://127.0.0.1:{ports[process]}/metrics")).raise_for_status()
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(series: Series, name: str, **labels: str) -> float:
    """Of a series that has to be there."""
    return series[name, frozenset(labels.items())]


async def test_a_run_that_is_cancelled_is_measured_from_its_wait_to_its_end(stack: Stack, project: Project) -> None:
    """The wait for a worker, the first word, how long the cancel took; one end, no run left. What has not happened is
    there as 0."""
    before = await scraped(stack, "execute")
    assert value(before, "ocf_executions_ended_total", state="failed", reason="worker_lost") == 0
    execution = await project.submit(FOREVER)
    await project.running(execution, "I am up")
    assert value(await scraped(stack, "execute"), "ocf_executions_running") == 1
    await project.client.cancel(execution)
    assert (await project.ended(execution)).state == "cancelled"

    async def put_away() -> bool:
        return value(await scraped(stack, "execute"), "ocf_executions_running") == 0

    await until(put_away, what="the run is put away")
    after = await scraped(stack, "execute")

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - before.get((name, frozenset(labels.items())), 0.0)

    assert more("ocf_executions_ended_total", state="cancelled", reason="") == 1
    for name in ("ocf_queue_wait_seconds", "ocf_first_output_seconds", "ocf_cancel_seconds"):
        assert more(f"{name}_count") == 1, name
        assert 0 < more(f"{name}_sum") < 30, name
    assert 0 < more("ocf_execution_seconds_sum", state="cancelled") < 60
    assert more("ocf_output_bytes_total") > 0


async def test_the_dispatcher_says_how_far_behind_every_consumer_is(stack: Stack, project: Project) -> None:
    """A series for each row of the wiring, before anything went wrong; and what was delivered is counted."""
    execution = await project.submit([{"text": "THE END"}])
    await project.archived(execution)

    async def measured() -> Series | None:
        found = await scraped(stack, "dispatcher")
        names = ("ocf_consumer_lag", "ocf_consumer_unsettled")
        lag = {(name, frozenset({("consumer", row.consumer)})) for name in names for row in ROUTES}
        return found if lag <= found.keys() else None

    found: Series = await until(measured, what="the lag of every consumer")
    for row in ROUTES:
        assert value(found, "ocf_dead_letters_total", consumer=row.consumer) == 0
        assert value(found, "ocf_deliveries_total", consumer=row.consumer, answer="none") >= 0
    assert value(found, "ocf_deliveries_total", consumer="submit", answer="2xx") >= 1


async def test_the_log_of_a_run_can_be_found_by_its_execution(stack: Stack, project: Project) -> None:
    """Every process logs JSON and nothing else; each function that took an event of it has a line about that, and the
    run's own lines say which attempt it is."""
    execution = await project.submit([{"text": "THE END"}])
    await project.archived(execution)

    async def handled() -> list[dict[str, object]] | None:
        lines = [json.loads(line) for name in ("control", "execute") for line in stack.log(name).splitlines()]
        mine = [line for line in lines if line.get("execution_id") == execution]
        took = {line["type"] for line in mine if line["action"] == "event.handled"}
        wanted = {"dev.ocf.task.submit.v1", "dev.ocf.task.execute.v1", "dev.ocf.task.completed.v1"}
        return mine if wanted <= took else None

    lines: list[dict[str, object]] = await until(handled, what="a line for each event that was handled")
    assert {line["project_id"] for line in lines} == {project.name}
    (ended,) = (line for line in lines if line["action"] == "execution.ended")
    assert ended["attempt"] == 1
    for line in stack.log("dispatcher").splitlines():
        assert "action" in json.loads(line)
