"""Agent, model calls and tool calls of a run as spans and metrics, by OpenTelemetry's GenAI conventions.

Source: opentelemetry.io/docs/specs/semconv/gen-ai (`invoke_agent`, `chat`, `execute_tool`, `gen_ai.client.*`), in the
names of opentelemetry-semantic-conventions 0.65b0. They state no content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind

from ocf.events.command_payloads import Execute
from ocf.events.output import ChunkType, Draft, Usage
from ocf.functions.execute.model_proxy import Call
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.observability import metrics
from ocf.functions.observability.tracing import Inner

_GOOD = ("ok", "passed")
_AGENT = "build"


class RunSpans:
    """Opens and closes spans from model-call hooks and output drafts, and counts the model calls."""

    def __init__(self, task: Execute) -> None:
        self._inner = Inner()
        # The conversation of a session goes through several executions.
        self._conversation = {"gen_ai.conversation.id": str(task.session_id or task.execution_id)}
        self._agent = task.agent or _AGENT

    @contextmanager
    def invoke_agent(self, target: ModelTarget | None) -> Iterator[None]:
        """Open the span of the agent's work, the parent of its model and tool calls."""
        attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": self._agent, **self._conversation}
        if target is not None:
            attributes |= {"gen_ai.provider.name": target.provider, "gen_ai.request.model": target.wire_model}
        with self._inner.within(f"invoke_agent {self._agent}", attributes):
            yield

    def call_started(self, call: Call) -> None:
        """Open the span of a model call."""
        attributes = {**_of_call(call), **self._conversation}
        self._inner.begin(f"call:{call.number}", f"chat {call.model}", attributes, SpanKind.CLIENT)

    def call_ended(self, call: Call) -> None:
        """Close the span of a model call, and count it."""
        attributes: dict[str, str | int | float | bool] = {
            **_of_usage(call.usage),
            "ocf.model.tries": call.tries,
            "ocf.model.outcome": call.outcome or "",
        }
        if call.first_byte_seconds is not None:
            attributes["ocf.model.first_byte_seconds"] = call.first_byte_seconds
        error = None if call.outcome in _GOOD else str(call.outcome)
        self._inner.end(f"call:{call.number}", attributes, error)
        metrics.count_call(call.provider, call.model, call.usage, call.seconds, error)

    def on_draft(self, draft: Draft) -> None:
        """Open or close the span of a tool call."""
        detail = draft.detail or {}
        key = f"tool:{detail.get('call_id')}"
        if draft.type is ChunkType.TOOL_CALL:
            name = str(detail.get("tool", "?"))
            attributes = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": str(detail.get("call_id", "")),
                "gen_ai.tool.type": "function",
                **self._conversation,
            }
            self._inner.begin(key, f"execute_tool {name}", attributes)
        elif draft.type is ChunkType.TOOL_RESULT:
            ok = bool(detail.get("ok"))
            self._inner.end(key, {"ocf.tool.ok": ok}, None if ok else "tool_error")

    def close(self) -> None:
        """Close all open spans at the end of the run."""
        self._inner.close()


def _of_call(call: Call) -> dict[str, str]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": call.provider,
        "gen_ai.request.model": call.model,
    }


def _of_usage(usage: Usage) -> dict[str, int]:
    """Return token counts; the conventions' input includes what the cache held, their output what was reasoned."""
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
