"""The dispatcher: what the function answers decides what becomes of the message."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable
from urllib.parse import unquote

import httpx2
import pytest

from ocf.events import dead_letters, subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.envelope import decode
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher.consumer import ConsumerLoop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES, Route, backoff
from tests.support.clock import ManualClock
from tests.support.parts import PROJECT, bench

CANCEL = next(row for row in ROUTES if row.consumer == "cancel")
Answer = Callable[[httpx2.Request], httpx2.Response]


def dispatcher(bus: MemoryBus, answer: Answer, row: Route = CANCEL, clock=None) -> Dispatcher:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return Dispatcher(row, FunctionTarget(row, "http://function/", "secret", http), bus=bus, clock=clock or bus.clock)


async def published(bus: MemoryBus, headers: dict[str, str] | None = None, data: bytes = b"") -> str:
    execution = str(uuid.uuid4())
    subject = subjects.command("cancel", PROJECT, execution)
    good = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/backend",
        "ce-type": "dev.ocf.task.cancel.v1",
        "ce-natssubject": "forged",
    }
    body = data or json.dumps({"execution_id": execution, "project_id": PROJECT}).encode()
    await bus.publish(subject, body, good if headers is None else headers)
    return subject


async def dispatched(bus: MemoryBus, answer: Answer, row: Route = CANCEL) -> None:
    (delivery,) = await bus.fetch(row.spec(), 1, 1)
    await dispatcher(bus, answer, row).dispatch(delivery)


async def dead(bus: MemoryBus) -> list:
    return [message async for message in bus.history(subjects.DLQ, "ocf.dlq.>")]


async def test_a_handled_event_is_acked_and_reached_the_function_with_its_subject_and_token() -> None:
    """The function learns the real subject, whatever the publisher wrote, and sees the shared secret."""
    bus = MemoryBus(ManualClock())
    subject = await published(bus)
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, text="OK")

    await dispatched(bus, answer)
    event = decode(seen[0].headers, seen[0].content)
    assert event.extensions["natssubject"] == subject
    assert seen[0].headers["ocf-dispatch-token"] == "secret"
    assert await bus.fetch(CANCEL.spec(), 1, 0.01) == []


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 500, 502, 503, 504])
async def test_transient_error_is_delivered_again_later(status: int) -> None:
    """A 5xx, a 404, a conflict or a wrong token is repeated with backoff, and not dead-lettered."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await published(bus)
    await dispatched(bus, lambda _: httpx2.Response(status))
    assert await dead(bus) == []
    clock.skip(backoff(1))
    (again,) = await bus.fetch(CANCEL.spec(), 1, 0.01)
    assert again.message.deliveries == 2


async def test_no_answer_is_delivered_again() -> None:
    """A function that is down is no reason to lose an event."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await published(bus)

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    await dispatched(bus, answer)
    clock.skip(1)
    assert len(await bus.fetch(CANCEL.spec(), 1, 0.01)) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_permanent_error_becomes_a_dead_letter_with_the_reason(status: int) -> None:
    """The message is kept as it came, beside what the function said."""
    bus = MemoryBus(ManualClock())
    subject = await published(bus)
    await dispatched(bus, lambda _: httpx2.Response(status, text="execution_id: ärger"))
    (letter,) = await dead(bus)
    assert unquote(letter.headers["Ocf-Dlq-Reason"]) == "execution_id: ärger"
    assert letter.headers["Ocf-Dlq-Subject"] == subject
    assert decode(letter.headers, letter.data).type == "dev.ocf.task.cancel.v1"
    assert await bus.fetch(CANCEL.spec(), 1, 0.01) == []


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "not a CloudEvent"),
        ({"ce-specversion": "1.0", "ce-source": "/a", "ce-type": "dev.ocf.task.cancel.v1"}, "id: missing"),
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "dev.ocf.task.cancel.v1"},
            "not valid JSON",
        ),
    ],
)
async def test_unknown_event_never_reaches_a_function(headers: dict[str, str], said: str) -> None:
    """Not an event, no id, no JSON: a dead letter without its content, and the consumer goes on."""
    bus = MemoryBus(ManualClock())
    subject = await published(bus, headers, b"not json")

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError("must not be called")

    await dispatched(bus, answer)
    (letter,) = await dead(bus)
    found = dead_letters.read(letter)
    assert said in found.reason
    assert (found.subject, found.size, found.sha256) == (subject, 8, hashlib.sha256(b"not json").hexdigest())
    assert letter.data == b""
    assert letter.subject == f"ocf.dlq.cancel.{subject.removeprefix('ocf.cmd.cancel.')}"
    assert await bus.fetch(CANCEL.spec(), 1, 0.01) == []


@pytest.mark.parametrize("kind", ["dev.ocf.task.cancel.v2", "dev.ocf.task.submit.v1"])
async def test_a_type_that_does_not_belong_on_the_subject_reaches_no_function(kind: str) -> None:
    """The reason names the type."""
    bus = MemoryBus(ManualClock())
    await published(bus, {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": kind}, b"{}")

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError("must not be called")

    await dispatched(bus, answer)
    (letter,) = await dead(bus)
    assert kind in dead_letters.read(letter).reason


async def test_a_schedule_of_somebody_else_reaches_no_function() -> None:
    """A backend may not reach another project by having the server publish there for it."""
    bus = MemoryBus(ManualClock())
    good = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/b", "ce-type": "dev.ocf.task.cancel.v1"}
    await published(bus, {**good, "Nats-Scheduler": "ocf.cmd.cancel.mine.x"})

    def answer(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError("must not be called")

    await dispatched(bus, answer)
    (letter,) = await dead(bus)
    assert "ocf.cmd.cancel.mine.x" in unquote(letter.headers["Ocf-Dlq-Reason"])
    await published(bus, {**good, "Nats-Scheduler": "ocf.schedule.sweep"})
    await dispatched(bus, lambda _: httpx2.Response(200))
    assert len(await dead(bus)) == 1


async def test_after_its_last_try_an_event_is_a_dead_letter() -> None:
    """Tries are bounded where the wiring says so."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await published(bus)
    for _ in range(CANCEL.max_deliveries):
        await dispatched(bus, lambda _: httpx2.Response(503, text="still down"))
        clock.skip(31)
    (letter,) = await dead(bus)
    assert letter.headers["Ocf-Dlq-Deliveries"] == str(CANCEL.max_deliveries)


async def test_a_busy_function_is_waited_for_within_the_same_delivery() -> None:
    """429 is not a failure: the dispatcher asks again after Retry-After, holding the message."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await published(bus)
    answers = [httpx2.Response(429, headers={"Retry-After": "3"})] * 2 + [httpx2.Response(200)]
    (delivery,) = await bus.fetch(CANCEL.spec(), 1, 1)
    task = asyncio.create_task(dispatcher(bus, lambda _: answers.pop(0)).dispatch(delivery))
    for _ in range(60):
        await clock.advance(1)
        await asyncio.sleep(0)
    await asyncio.wait_for(task, 5)
    assert answers == []
    assert delivery.message.deliveries == 1
    assert await dead(bus) == []


async def test_a_long_run_is_held_by_heartbeats() -> None:
    """While the function works the message is not delivered to anybody else."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await published(bus)
    finish = asyncio.Event()

    async def slow(request: httpx2.Request) -> httpx2.Response:
        await finish.wait()
        return httpx2.Response(200)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(slow))
    (delivery,) = await bus.fetch(CANCEL.spec(), 1, 1)
    worker = Dispatcher(CANCEL, FunctionTarget(CANCEL, "http://function/", None, http), bus=bus, clock=clock)
    task = asyncio.create_task(worker.dispatch(delivery))
    for _ in range(120):
        await clock.advance(1)
        assert bus._due(CANCEL.spec(), bus._consumers["cancel"]) == []
    finish.set()
    await asyncio.wait_for(task, 5)


async def test_the_loop_goes_on_after_a_dead_letter_and_bounds_what_is_in_flight() -> None:
    """One bad message does not wedge a consumer; no more than `in_flight` are at work at once."""
    b = bench(SystemClock())
    row = Route("cancel", "cancel", CANCEL.stream, CANCEL.subjects, CANCEL.types, 2, 3, 5.0)
    at_once, most, done = 0, 0, 0

    async def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        done += 1
        return httpx2.Response(200)

    await published(b.bus, {}, b"rubbish")
    for _ in range(10):
        await published(b.bus)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    worker = Dispatcher(row, FunctionTarget(row, "http://function/", None, http), bus=b.bus, clock=b.deps.clock)
    loop = ConsumerLoop(row, worker, b.bus, b.deps.clock)
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(5):
        while done < 10:
            await asyncio.sleep(0.01)
    task.cancel()
    await loop.stop(1)
    assert most <= 2
    assert len(await dead(b.bus)) == 1


async def test_archive_gets_a_redriven_fact_as_that_of_its_execution() -> None:
    """On the subject that is for it alone; the function is told the first one, which names the execution."""
    bus = MemoryBus(ManualClock())
    subject = subjects.fact(PROJECT, str(uuid.uuid4()), "completed")
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": "dev.ocf.task.completed.v1"}
    await bus.publish(subjects.redelivery_subject(subject, "archive"), b"{}", headers)
    await bus.publish(subjects.redelivery_subject(subject, "sink-acme"), b"{}", headers)
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(decode(request.headers, request.content).extensions["natssubject"])
        return httpx2.Response(200)

    row = next(row for row in ROUTES if row.consumer == "archive")
    await dispatched(bus, answer, row)
    assert seen == [subject]
    assert await bus.fetch(row.spec(), 1, 0.01) == []
