"""Which trace an event belongs to, and what its spans say; spans are recorded in memory."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

import httpx2
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import LogCapture

from ocf.events import subjects, trace_context
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.command_payloads import Cancel, Cleanup
from ocf.events.envelope import Event
from ocf.events.errors import Busy, Drop, NotItsTurn, Retry
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.observability import tracing
from ocf.functions.runtime.function import Function
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, post, submit
from tests.support.parts import PROJECT, Bench, bench

EXECUTIONS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CANCELLERS = "00-1bf7651916cd43dd8448eb211c80319d-c7ad6b7169203332-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process's tracer records during the test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def pending(b: Bench) -> str:
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution).with_extensions(traceparent=EXECUTIONS))
    return execution


def request(b: Bench, execution: str):
    data = Cancel(execution_id=execution, project_id=PROJECT)
    return b.command("dev.ocf.task.cancel.v1", data).with_extensions(traceparent=CANCELLERS)


async def test_the_end_of_an_execution_is_in_its_trace_whoever_ends_it() -> None:
    """Without tracing of our own: the canceller's context is that of the command, and no more."""
    b = bench()
    execution = await pending(b)
    await cancel(b.deps, request(b, execution))
    assert (await b.fact(execution, "cancelled")).extensions["traceparent"] == EXECUTIONS


async def test_the_span_that_ends_an_execution_of_another_trace_points_to_it(spans: InMemorySpanExporter) -> None:
    """With tracing: the fact stays in the execution's trace, the canceller's span has a link."""
    b = bench()
    execution = await pending(b)
    command = request(b, execution)
    with tracing.span("process cancel", command):
        await cancel(b.deps, command)
    assert (await b.fact(execution, "cancelled")).extensions["traceparent"] == EXECUTIONS
    (span,) = spans.get_finished_spans()
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [trace_context.trace_id(EXECUTIONS)]


async def test_a_span_of_the_same_trace_is_the_nearer_cause(spans: InMemorySpanExporter) -> None:
    """A worker's end hangs below its run, not below the submit; and there is nothing to point to."""
    b = bench()
    execution = await pending(b)
    command = request(b, execution).with_extensions(traceparent=EXECUTIONS)
    with tracing.span("process cancel", command):
        await cancel(b.deps, command)
    (span,) = spans.get_finished_spans()
    assert f"-{span.context.span_id:016x}-" in (await b.fact(execution, "cancelled")).extensions["traceparent"]
    assert span.links == ()


async def test_a_deletion_is_in_the_trace_of_what_is_deleted() -> None:
    """`cleaned` is the last that is said of an execution."""
    b = bench()
    execution = await pending(b)
    await cancel(b.deps, request(b, execution))
    data = Cleanup(execution_id=execution, project_id=PROJECT)
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", data).with_extensions(traceparent=CANCELLERS))
    assert (await b.fact(execution, "cleaned")).extensions["traceparent"] == EXECUTIONS


def test_span_of_an_error_holds_no_error_text(spans: InMemorySpanExporter) -> None:
    """An error by its type; what is dropped is no error."""
    event = bench().submit()
    with pytest.raises(ValueError), tracing.span("process submit", event):
        raise ValueError("the words of a prompt")
    with pytest.raises(Drop), tracing.span("process submit", event):
        raise Drop("it has ended")
    failed, dropped = spans.get_finished_spans()
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert "words" not in failed.to_json()
    assert (dropped.status.status_code, dropped.attributes["ocf.dropped"]) == (StatusCode.UNSET, True)


@pytest.mark.parametrize("why", [Busy, NotItsTurn])
async def test_requeued_delivery_is_neither_a_span_error_nor_a_log_line(
    spans: InMemorySpanExporter, why: type[Retry]
) -> None:
    """On a full cluster each is asked again and again: thousands an hour, of which nothing is wrong."""
    b = bench()
    event = b.submit()

    async def handler(_: Event) -> None:
        raise why

    lines = LogCapture()
    every_level = structlog.make_filtering_bound_logger(logging.DEBUG)  # whatever another test has configured
    log = structlog.wrap_logger(None, processors=[lines], wrapper_class=every_level)
    function = Function(handler, log=log)
    await function.start(b.deps)
    response = await function.respond(post(event))
    assert response.status_code == why.http_status
    assert [(line["action"], line["log_level"]) for line in lines.entries] == [("event.refused", "debug")]
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, attributes(span)["ocf.waits"]) == (StatusCode.UNSET, True)
    assert "error.type" not in attributes(span)


@pytest.mark.parametrize(
    ("status", "error"),
    [(200, None), (400, "400"), (425, None), (503, "503"), (None, "no_answer")],
    ids=str,
)
async def test_a_dispatch_says_what_was_answered(
    spans: InMemorySpanExporter, status: int | None, error: str | None
) -> None:
    """The status as HTTP's conventions call it, an error for whatever is no success, and where it came from."""
    row = next(row for row in ROUTES if row.consumer == "cancel")
    bus = MemoryBus(ManualClock())

    def answer(_: httpx2.Request) -> httpx2.Response:
        if status is None:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(status)

    event = request(bench(), str(uuid.uuid4()))
    subject = subjects.command("cancel", PROJECT, event.extensions["correlationid"])
    await bus.publish(subject, event.data, event.headers())
    (delivery,) = await bus.fetch(row.spec(), 1, 1)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    await Dispatcher(row, FunctionTarget(row, "http://function/", None, http), bus=bus, clock=bus.clock).dispatch(
        delivery
    )
    (span,) = spans.get_finished_spans()
    said = attributes(span)
    assert said.get("http.response.status_code") == status
    assert said.get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) == (error is not None)
    assert said.get("ocf.waits", False) == (status == 425)
    assert said["messaging.destination.name"] == subject
    assert said["messaging.operation.name"] == "dispatch"


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})
