"""Spans and metrics of an agent's work, by the names of OpenTelemetry's GenAI conventions; recorded in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import StatusCode

from ocf.events.command_payloads import Execute
from ocf.events.output import ChunkType, Draft, Usage
from ocf.functions.execute.attempt.spans import RunSpans
from ocf.functions.execute.model_proxy import Call
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.observability import metrics, tracing

SESSION = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
TARGET = ModelTarget("local", "m", "openai", "http://127.0.0.1:9/v1")
USAGE = Usage(requests=1, input_tokens=7, output_tokens=3, cache_read_tokens=4, cache_write_tokens=2)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process's tracer records during the test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def task(**fields: object) -> Execute:
    ids = {
        "execution_id": str(uuid.uuid4()),
        "project_id": "p",
        "prompt": "the words",
        "submitted_at": "2026-01-01T00:00:00Z",
    }
    return Execute.model_validate({**ids, **fields})


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def work(run: RunSpans, outcome: str, *, ok: bool) -> None:
    """A model call and a tool call."""
    run.call_started(Call(1, "m", "local", 0.0))
    run.call_ended(Call(1, "m", "local", 0.0, seconds=2.0, usage=USAGE, outcome=outcome))  # type: ignore[arg-type]
    detail = {"call_id": "call_1", "tool": "bash"}
    run.on_draft(Draft(type=ChunkType.TOOL_CALL, detail=detail))
    run.on_draft(Draft(type=ChunkType.TOOL_RESULT, detail={**detail, "ok": ok}))


def test_calls_are_children_of_the_agents_span(spans: InMemorySpanExporter) -> None:
    """With the conversation, the tool call's id, and cached tokens in the input; every name is the conventions'."""
    run = RunSpans(task(session_id=SESSION, agent="plan"))
    with run.invoke_agent(TARGET):
        work(run, "ok", ok=True)
    found = by_name(spans)
    agent, chat, tool = found["invoke_agent plan"], found["chat m"], found["execute_tool bash"]
    assert agent.context is not None
    for child in (chat, tool):
        assert child.parent is not None
        assert child.parent.span_id == agent.context.span_id
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    for span in (agent, chat, tool):
        told = dict(span.attributes or {})
        assert told["gen_ai.conversation.id"] == SESSION
        assert {name for name in told if name.startswith("gen_ai.")} <= known
        assert span.status.status_code is StatusCode.UNSET
        assert "the words" not in span.to_json()
    assert (agent.attributes or {})["gen_ai.request.model"] == "m"
    assert (tool.attributes or {})["gen_ai.tool.call.id"] == "call_1"
    counted = {
        name.rpartition("usage.")[2]: value for name, value in (chat.attributes or {}).items() if "usage" in name
    }
    assert counted == {
        "input_tokens": 13,
        "output_tokens": 3,
        "cache_read.input_tokens": 4,
        "cache_creation.input_tokens": 2,
        "reasoning.output_tokens": 0,
    }


def test_failures_have_their_kind_and_what_is_open_is_cut(spans: InMemorySpanExporter) -> None:
    """The conversation of an execution without a session is its own."""
    asked = task()
    run = RunSpans(asked)

    def fail() -> None:
        with run.invoke_agent(None):
            work(run, "cut", ok=False)
            run.call_started(Call(2, "other", "local", 0.0))
            raise ValueError("the words of an error")

    with pytest.raises(ValueError):
        fail()
    run.close()
    found = by_name(spans)
    kinds = {name: (span.attributes or {}).get("error.type") for name, span in found.items()}
    assert kinds == {
        "chat m": "cut",
        "execute_tool bash": "tool_error",
        "invoke_agent build": "ValueError",
        "chat other": "cut",
    }
    for span in found.values():
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["gen_ai.conversation.id"] == str(asked.execution_id)
        assert "words" not in span.to_json()


def test_model_calls_are_measured(spans: InMemorySpanExporter) -> None:
    """`gen_ai.client.token.usage` and `gen_ai.client.operation.duration`, in Prometheus' names."""

    def value(name: str, **more: str) -> float:
        labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "local", "gen_ai_request_model": "m"}
        return metrics.REGISTRY.get_sample_value(name, labels | more) or 0.0

    def now() -> tuple[float, ...]:
        return (
            value("gen_ai_client_token_usage_sum", gen_ai_token_type="input"),
            value("gen_ai_client_token_usage_sum", gen_ai_token_type="output"),
            value("gen_ai_client_operation_duration_seconds_sum", error_type=""),
            value("gen_ai_client_operation_duration_seconds_count", error_type="failed"),
        )

    before = now()
    run = RunSpans(task())
    work(run, "ok", ok=True)
    work(run, "failed", ok=True)
    assert [after - then for after, then in zip(now(), before, strict=True)] == [26, 6, 2, 1]
