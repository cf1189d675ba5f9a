"""Whose turn it is not: the worker says so, and the dispatcher gives it back without counting a failure."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx2

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.requeue_backoff import RequeueBackoff
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.observability import metrics
from tests.support.clock import ManualClock
from tests.support.measures import value
from tests.support.parts import PROJECT

EXECUTE = next(row for row in ROUTES if row.consumer == "execute")


async def test_early_delivery_is_requeued_and_counts_no_failure() -> None:
    """425: it comes again after a second, for ever, and neither counts as a redelivery nor takes a place meanwhile."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    execution = str(uuid.uuid4())
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": "dev.ocf.task.execute.v1"}
    body = json.dumps({"execution_id": execution, "project_id": PROJECT}).encode()
    await bus.publish(subjects.command("execute", PROJECT, execution), body, headers)
    answers = [httpx2.Response(425) for _ in range(30)] + [httpx2.Response(200)]
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answers.pop(0)))
    worker = Dispatcher(EXECUTE, FunctionTarget(EXECUTE, "http://execute/", None, http), bus=bus, clock=clock)
    before = value(metrics.redeliveries.labels("execute"))
    counted = {kind: value(metrics.deliveries.labels("execute", kind)) for kind in metrics.ANSWERS}
    while answers:
        (delivery,) = await bus.fetch(EXECUTE.spec(), 1, 0.01)
        await asyncio.wait_for(worker.dispatch(delivery), 5)
        clock.skip(1.0)
    assert await bus.fetch(EXECUTE.spec(), 1, 0.01) == []
    assert [m async for m in bus.history(subjects.DLQ, "ocf.dlq.>")] == []
    assert value(metrics.redeliveries.labels("execute")) == before
    more = {kind: value(metrics.deliveries.labels("execute", kind)) - n for kind, n in counted.items()}
    assert {kind: n for kind, n in more.items() if n} == {"early": 30, "2xx": 1}


def test_many_that_wait_ask_ten_times_a_second_together() -> None:
    """One asks each second, a hundred each ten seconds, thousands twice a minute; who went elsewhere is forgotten."""
    clock = ManualClock()
    turns = RequeueBackoff(clock)
    pauses = [turns.delay(number) for number in range(1_000)]
    assert (pauses[0], pauses[99], pauses[999]) == (1.0, 10.0, 30.0)
    assert turns.take_requeued(5)
    assert not turns.take_requeued(5)
    clock.skip(61)
    assert turns.delay(5) == 1.0


def test_backlog_of_one_project_delays_no_other_project() -> None:
    """A thousand follow-ups of one project ask rarely; the first one of another asks again after a second."""
    turns = RequeueBackoff(ManualClock())
    for number in range(1_000):
        turns.delay(number, "talker")
    assert turns.delay(1_000, "other") == 1.0
    assert not turns.take_requeued(1_000, "talker")
    assert turns.take_requeued(1_000, "other")


def test_delivery_in_backoff_takes_no_place_in_flight() -> None:
    """Every consumer of commands and facts may have far more unsettled than in flight."""
    for row in ROUTES:
        assert row.spec().max_in_flight >= 10 * row.in_flight, row.consumer
