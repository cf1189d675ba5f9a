"""What is counted, where, and that it is there before it is counted."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.errors import Drop, Unavailable
from ocf.events.execution_record import Attempt, Record
from ocf.events.fact_payloads import Completed
from ocf.events.lifecycle import State, Step
from ocf.events.output import Usage
from ocf.events.ports import Backlog, ConsumerSpec
from ocf.functions.core.cleanup_schedules import SWEEP
from ocf.functions.core.lease_lookup import RECHECK_SECONDS
from ocf.functions.dispatcher.delivery_result import DeliveryResult, SinkResult
from ocf.functions.dispatcher.main import _measure_lag
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.observability import metrics
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, submit
from tests.support.parts import PROJECT, Bench, bench


def value(name: str, **labels: str) -> float:
    """A series of this process, 0 when it is not there."""
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def ends() -> dict[tuple[str, str], float]:
    """How many ended, by state and reason."""
    samples = [sample for family in metrics.ended.collect() for sample in family.samples]
    counts = [sample for sample in samples if sample.name.endswith("_total")]
    return {(sample.labels["state"], sample.labels["reason"]): sample.value for sample in counts}


class Counted:
    """What was counted since it was made."""

    def __init__(self) -> None:
        self._before = ends()

    def since(self) -> dict[tuple[str, str], float]:
        return {key: n - self._before.get(key, 0.0) for key, n in ends().items() if n != self._before.get(key, 0.0)}


def request(b: Bench, execution: str):
    return b.command("dev.ocf.task.cancel.v1", Cancel(execution_id=execution, project_id=PROJECT))


async def started(b: Bench, **changes: object) -> str:
    """An execution that runs, on nobody."""
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    now = b.deps.clock.now()
    attempts = [Attempt(number=1, worker="w", started_at=now)]
    update = {"state": State.RUNNING, "attempts": attempts, "started_at": now, **changes}
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy(update=update))
    return execution


async def test_cancel_before_the_start_is_counted_once() -> None:
    """However often the cancel comes; and no time is measured of what never ran."""
    b, counted = bench(), Counted()
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    durations = value("ocf_execution_seconds_count", state="cancelled")
    await cancel(b.deps, request(b, execution))
    with pytest.raises(Drop):
        await cancel(b.deps, request(b, execution))
    assert counted.since() == {("cancelled", ""): 1}
    assert value("ocf_execution_seconds_count", state="cancelled") == durations


async def test_execution_ended_by_the_sweep_is_counted_with_its_reason() -> None:
    """`worker_lost` is what the alert asks for; it is the sweep that says it, and no worker."""
    clock = ManualClock()
    b, counted = bench(clock), Counted()
    await started(b)
    await clock.advance(181)
    command = Cleanup(execution_id=SWEEP.entity, project_id="ocf-system", scope="sweep")
    sweeping = asyncio.create_task(cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", command)))
    for _ in range(50):
        await asyncio.sleep(0)
    await clock.advance(RECHECK_SECONDS)
    await sweeping
    assert counted.since() == {("failed", "worker_lost"): 1}


async def test_rejected_execution_is_counted_once() -> None:
    """A redelivery finds the record there."""
    b, counted = bench(), Counted()
    execution = str(uuid.uuid4())
    bad = b.raw_submit({"execution_id": execution, "project_id": PROJECT}, PROJECT, execution)
    await submit(b.deps, bad)
    await submit(b.deps, bad)
    assert counted.since() == {("rejected", ""): 1}


async def test_an_end_counts_what_was_used_and_how_long_it_took() -> None:
    """Tokens and money by model, seconds from the first start; a second end of the same execution changes nothing."""
    clock = ManualClock()
    b, counted, model = bench(clock), Counted(), f"acme/{uuid.uuid4()}"
    execution = await started(b, model=model)
    await clock.advance(42)
    usage = Usage(input_tokens=7, output_tokens=3, cache_read_tokens=5, cost_usd=0.25)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=42_000, usage=usage)
    seconds = value("ocf_execution_seconds_sum", state="completed")
    for _ in range(2):
        await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    assert counted.since() == {("completed", ""): 1}
    assert value("ocf_execution_seconds_sum", state="completed") - seconds == pytest.approx(42)
    spent = {each: value("ocf_model_tokens_total", model=model, direction=each) for each in ("input", "output")}
    assert spent == {"input": 7, "output": 3}
    assert value("ocf_model_tokens_total", model=model, direction="cache_read") == 5
    assert value("ocf_model_cost_usd_total", model=model) == 0.25


async def test_an_end_that_another_was_faster_to_write_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose write sticks counts; the other finds a record that has ended."""
    b, counted = bench(), Counted()
    execution = await started(b)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=1)
    get, overtaken = b.deps.executions.get, []

    async def slow(key: str):
        entry = await get(key)
        if not overtaken:
            overtaken.append(key)
            await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
        return entry

    monkeypatch.setattr(b.deps.executions, "get", slow)
    await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    assert overtaken
    assert counted.since() == {("completed", ""): 1}


async def test_deleting_and_noting_are_no_ends() -> None:
    """A change of a record that has ended, or goes on, counts nothing."""
    b = bench()
    execution = await started(b)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=1)
    await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    counted = Counted()

    def archived(record: Record) -> Record:
        return record.model_copy(update={"archived": True})

    await b.deps.records.change(PROJECT, execution, archived)
    assert counted.since() == {}


class Away(MemoryBus):
    """A bus that answers as long as `trouble` is None."""

    trouble: Exception | None = None

    async def backlog(self, consumer: ConsumerSpec) -> Backlog:
        if self.trouble is not None:
            raise self.trouble
        return await super().backlog(consumer)


async def test_unknown_figures_of_a_consumer_are_not_exported() -> None:
    """During an outage the last value would say that all is well; without one `OcfDispatcherGone` fires. Whatever goes
    wrong is said, the measuring goes on, and the numbers are there again when the bus is."""
    clock = ManualClock()
    b, row = bench(clock, bus=Away), next(row for row in ROUTES if row.consumer == "submit")
    for _ in range(3):
        event = b.submit()
        await b.bus.publish(event.extensions["natssubject"], event.data, event.headers())
    (delivery,) = await b.bus.fetch(row.spec(), 1, 1)
    await delivery.nak(30)
    measuring = asyncio.create_task(_measure_lag(b.deps, (row,), {}))
    await asyncio.sleep(0)

    def shown() -> list[float | None]:
        names = ("ocf_consumer_lag", "ocf_consumer_unsettled")
        return [metrics.REGISTRY.get_sample_value(name, {"consumer": "submit"}) for name in names]

    assert shown() == [2, 1]
    for trouble in (Unavailable("no answer"), RuntimeError("nobody thought of it")):
        b.bus.trouble = trouble  # type: ignore[attr-defined]
        with capture_logs() as said:
            await clock.advance(15)
        assert [(line["action"], line["consumer"]) for line in said] == [("dispatch.lag_unknown", "submit")]
        assert shown() == [None, None]
    b.bus.trouble = None  # type: ignore[attr-defined]
    await clock.advance(15)
    assert shown() == [2, 1]
    measuring.cancel()


def test_answers_that_are_no_failures_are_counted_apart() -> None:
    """Who waits for its turn, or runs at another worker, does not fail; out there 425 is a failure like any other."""
    kinds = {status: DeliveryResult(status).kind for status in (0, 200, 301, 404, 409, 425, 503)}
    expected = {0: "none", 200: "2xx", 301: "3xx", 404: "4xx", 409: "conflict", 425: "early", 503: "5xx"}
    assert kinds == expected
    assert set(expected.values()) == set(metrics.ANSWERS)
    assert SinkResult(425).kind == "4xx"


def test_a_wait_of_an_hour_is_told_from_one_of_ten_minutes() -> None:
    """A full cluster lets somebody wait for as long as a run lasts."""
    (family,) = metrics.queued.collect()
    bounds = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
    assert {"600.0", "3600.0", "7200.0"} <= bounds


def test_counters_exist_before_their_first_increment() -> None:
    """An alert on `increase()` needs a 0 to increase from."""
    metrics.expect_ends()
    metrics.expect_deliveries("row-of-the-test")
    text = generate_latest(metrics.REGISTRY).decode()
    for series in (
        'ocf_executions_ended_total{reason="worker_lost",state="failed"}',
        'ocf_executions_ended_total{reason="",state="rejected"}',
        'ocf_dead_letters_total{consumer="row-of-the-test"} 0.0',
        'ocf_deliveries_total{answer="2xx",consumer="row-of-the-test"} 0.0',
        'ocf_swept_total{state="failed"}',
    ):
        assert series in text, series
