"""Model calls and tool calls of a run as spans (OpenTelemetry GenAI conventions, 2026: `chat`, `execute_tool`)."""

from __future__ import annotations

from opentelemetry.trace import SpanKind

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.model_proxy import Call
from ocf.functions.observability.tracing import Inner


class RunSpans:
    """Opens and closes spans from model-call hooks and output drafts."""

    def __init__(self) -> None:
        self._inner = Inner()

    def call_started(self, call: Call) -> None:
        """Open the span of a model call."""
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": call.provider,
            "gen_ai.request.model": call.model,
        }
        self._inner.begin(f"call:{call.number}", f"chat {call.model}", attributes, SpanKind.CLIENT)

    def call_ended(self, call: Call) -> None:
        """Close the span of a model call."""
        attributes: dict[str, str | int | float | bool] = {
            "gen_ai.usage.input_tokens": call.usage.input_tokens,
            "gen_ai.usage.output_tokens": call.usage.output_tokens,
            "ocf.model.tries": call.tries,
            "ocf.model.outcome": call.outcome or "",
        }
        if call.first_byte_seconds is not None:
            attributes["ocf.model.first_byte_seconds"] = call.first_byte_seconds
        self._inner.end(f"call:{call.number}", attributes, ok=call.outcome in ("ok", "passed"))

    def on_draft(self, draft: Draft) -> None:
        """Open or close the span of a tool call."""
        detail = draft.detail or {}
        key = f"tool:{detail.get('call_id')}"
        if draft.type is ChunkType.TOOL_CALL:
            name = str(detail.get("tool", "?"))
            attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
            self._inner.begin(key, f"execute_tool {name}", attributes)
        elif draft.type is ChunkType.TOOL_RESULT:
            ok = bool(detail.get("ok"))
            self._inner.end(key, {"ocf.tool.ok": ok}, ok=ok)

    def close(self) -> None:
        """Close all open spans at the end of the run."""
        self._inner.close()
