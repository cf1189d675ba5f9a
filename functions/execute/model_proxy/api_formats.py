"""The API formats, as pure functions: what is sent, what is returned.

OpenAI: chat completions and responses (platform.openai.com/docs/api-reference). Anthropic: messages
(docs.anthropic.com/en/api/messages). Google: generateContent (`gemini.py`). The agent never sees the real key, which
this module adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ocf.functions.execute.model_proxy import gemini
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import Kind, ModelTarget


@dataclass(frozen=True)
class Route:
    """A path that the agent may call. `path` is below the target's base URL; `stream` is set where the path decides."""

    wire: Wire
    kind: Kind
    path: str = ""
    stream: bool | None = None

    def url(self, target: ModelTarget) -> str:
        """Return the provider's URL."""
        if self.wire == "gemini":
            path = gemini.upstream_path(quote(target.wire_model, safe=""), stream=bool(self.stream))
            return target.base_url + path
        return target.base_url + self.path


#: Nothing else is forwarded. The `openai` in between is DeepInfra's SDK's.
_ROUTES = {
    "/v1/chat/completions": Route("chat", "openai", "/chat/completions"),
    "/v1/openai/chat/completions": Route("chat", "openai", "/chat/completions"),
    "/v1/responses": Route("responses", "openai", "/responses"),
    "/v1/messages": Route("messages", "anthropic", "/messages"),
}
#: The field of a request that holds the conversation, per API format.
CONVERSATION: dict[Wire, str] = {"chat": "messages", "responses": "input", "messages": "messages", "gemini": "contents"}
MODELS_PATHS = ("/v1/models", "/v1beta/models")
ANTHROPIC_VERSION = "2023-06-01"


def route(path: str) -> Route | None:
    """Return the call that a path stands for; None when it is not forwarded."""
    if (found := _ROUTES.get(path)) is not None:
        return found
    call = gemini.PATH.match(path)
    return None if call is None else Route("gemini", "google", stream=call["stream"] is not None)


def max_tokens_field(wire: Wire, body: Mapping[str, Any], target: ModelTarget) -> str:
    """Return the provider's field for the maximum length of an answer."""
    if wire == "responses":
        return "max_output_tokens"
    if wire == "gemini":
        return "maxOutputTokens"
    # OpenAI's own reasoning models refuse max_tokens; compatible servers often know no other field.
    if wire == "chat" and ("max_completion_tokens" in body or urlsplit(target.base_url).hostname == "api.openai.com"):
        return "max_completion_tokens"
    return "max_tokens"


def tool_name(tool: object) -> str:
    """Return the name of a tool in any API format; empty where it has none."""
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    return str((function.get("name") if isinstance(function, dict) else None) or tool.get("name") or "")


def upstream_headers(target: ModelTarget, sent: Mapping[str, str]) -> dict[str, str]:
    """Return headers for the provider: the real key, and of the agent's headers only what changes the answer's form."""
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        # Compressed streams are held back by their compressor.
        "accept-encoding": "identity",
        "user-agent": "opencode-functions",
    }
    key = target.api_key.get_secret_value() if target.api_key else None
    if target.kind == "anthropic":
        headers["anthropic-version"] = sent.get("anthropic-version", ANTHROPIC_VERSION)
        if "anthropic-beta" in sent:
            headers["anthropic-beta"] = sent["anthropic-beta"]
        if key:
            headers["x-api-key"] = key
    elif target.kind == "google":
        if key:
            headers["x-goog-api-key"] = key
    elif key:
        headers["authorization"] = f"Bearer {key}"
    return headers


def presented_token(headers: Mapping[str, str]) -> str:
    """Return the credential that a client presents, in any API format."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key") or headers.get("x-goog-api-key", "")


def error_body(message: str, type_: str = "ocf_model_proxy") -> bytes:
    """Return an error that clients of all API formats can read."""
    return json.dumps({"type": "error", "error": {"type": type_, "message": message, "code": type_}}).encode()


def model_list(name: str) -> bytes:
    """Return the answer to `GET /v1/models`, readable in all API formats; the provider is not called."""
    item = {"id": name, "object": "model", "type": "model", "display_name": name, "owned_by": "ocf"}
    google = {"name": f"models/{name}", "displayName": name}
    return json.dumps({"object": "list", "data": [item], "has_more": False, "models": [google]}).encode()


CANNED_WORD = "ready"
#: Deltas of a canned stream. An agent that has read many already passes a run's first words on sooner: JavaScript is
#: compiled as it runs.
CANNED_DELTAS = 64


def canned(wire: Wire, stream: bool) -> tuple[str, bytes]:
    """Return content type and body of a completion made without a model: it boots an agent at no cost.

    A stream has `CANNED_DELTAS` words, a whole answer one.
    """
    if wire == "gemini":
        whole = json.dumps(gemini.canned(CANNED_WORD))
        return ("text/event-stream", f"data: {whole}\n\n".encode()) if stream else ("application/json", whole.encode())
    events = _canned_events(wire)
    if not stream:
        return "application/json", json.dumps(_canned_whole(wire)).encode()
    lines = []
    for event in events:
        name = f"event: {event['type']}\n" if wire != "chat" else ""
        lines.append(f"{name}data: {json.dumps(event)}\n\n")
    if wire == "chat":
        lines.append("data: [DONE]\n\n")
    return "text/event-stream", "".join(lines).encode()


def _canned_whole(wire: Wire) -> dict[str, Any]:
    if wire == "messages":
        return {
            "id": "msg_ocf", "type": "message", "role": "assistant", "model": "ocf",
            "content": [{"type": "text", "text": CANNED_WORD}], "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }  # fmt: skip
    if wire == "responses":
        part = {"type": "output_text", "text": CANNED_WORD, "annotations": []}
        item = {"id": "msg_ocf", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        return {
            "id": "resp_ocf", "object": "response", "created_at": 0, "status": "completed", "model": "ocf",
            "output": [item], "usage": usage,
        }  # fmt: skip
    message = {"role": "assistant", "content": CANNED_WORD}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {
        "id": "chatcmpl-ocf", "object": "chat.completion", "created": 0, "model": "ocf",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
    }  # fmt: skip


def _canned_events(wire: Wire) -> list[dict[str, Any]]:
    whole = _canned_whole(wire)
    if wire == "messages":
        return [
            {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": CANNED_WORD}}]
            * CANNED_DELTAS,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0}},
            {"type": "message_stop"},
        ]
    if wire == "responses":
        item = whole["output"][0]
        return [
            {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
            *[{"type": "response.output_text.delta", "item_id": item["id"], "output_index": 0, "content_index": 0,
               "delta": CANNED_WORD}] * CANNED_DELTAS,
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": whole},
        ]  # fmt: skip
    base = {"id": "chatcmpl-ocf", "object": "chat.completion.chunk", "created": 0, "model": "ocf"}
    delta = {"role": "assistant", "content": CANNED_WORD}
    return [
        *[{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}] * CANNED_DELTAS,
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**base, "choices": [], "usage": whole["usage"]},
    ]
