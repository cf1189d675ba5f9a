"""Drafts and models from small parts of OpenCode's data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, PendingRequest, TodoItem, Usage

PERMISSION_OPTIONS = ["once", "always", "reject"]

_MODEL_ERRORS = {
    "APIError",
    "ContentFilterError",
    "ContextOverflowError",
    "MessageOutputLengthError",
    "ProviderModelNotFoundError",
}
_TODO_STATES = {"pending", "in_progress", "completed", "cancelled"}


def usage_after(used: Usage, step: Mapping[str, Any]) -> Usage:
    """Return the totals after a `step-finish` part (one model call). OpenCode's `input` excludes cached tokens."""
    tokens = step.get("tokens") or {}
    cache = tokens.get("cache") or {}
    return Usage(
        requests=used.requests + 1,
        input_tokens=used.input_tokens + int(tokens.get("input") or 0),
        output_tokens=used.output_tokens + int(tokens.get("output") or 0),
        reasoning_tokens=used.reasoning_tokens + int(tokens.get("reasoning") or 0),
        cache_read_tokens=used.cache_read_tokens + int(cache.get("read") or 0),
        cache_write_tokens=used.cache_write_tokens + int(cache.get("write") or 0),
        cost_usd=round(used.cost_usd + float(step.get("cost") or 0), 9),
    )


def todo_draft(todos: Sequence[Mapping[str, Any]]) -> Draft:
    """Return a draft with the agent's whole todo list."""
    items = [TodoItem.model_validate({"content": t["content"], "status": _known(t.get("status"))}) for t in todos]
    done = sum(item.status == "completed" for item in items)
    detail = {"items": [item.model_dump(mode="json") for item in items]}
    return Draft(type=ChunkType.TODO, data=f"{done} of {len(items)} done", detail=detail)


def permission_waiting(request: Mapping[str, Any]) -> PendingRequest:
    """Return the pending request of a permission: the tool and the intended action."""
    what = (request.get("metadata") or {}).get("command") or ", ".join(request.get("patterns") or [])
    title = f"{request.get('permission')}: {what}"
    return PendingRequest(request_id=request["id"], kind="permission", title=title, options=PERMISSION_OPTIONS)


def question_waiting(request: Mapping[str, Any]) -> PendingRequest:
    """Return the pending request of a question: one line per question, with the options of the first."""
    questions = request.get("questions") or []
    title = "\n".join(" ".join(str(question.get("question", "")).split()) for question in questions)
    options = [str(option.get("label")) for option in (questions[0].get("options") or [] if questions else [])]
    return PendingRequest(request_id=request["id"], kind="question", title=title, options=options)


def failure(error: Mapping[str, Any]) -> tuple[Reason, str]:
    """Return OpenCode's error object ({name, data}) as a reason and one readable line."""
    name, data = str(error.get("name", "UnknownError"))[:100], error.get("data") or {}
    message = str(data.get("message") or name)
    message = message.splitlines()[0][:500] if message.strip() else name
    if name == "ProviderAuthError" or data.get("statusCode") in (401, 403):
        return Reason.MODEL_AUTH, f"the model refused the credentials: {message}"
    if name in _MODEL_ERRORS:
        code = f" ({data['statusCode']})" if "statusCode" in data else ""
        return Reason.MODEL_ERROR, f"the model failed{code}: {message}"
    return Reason.AGENT_ERROR, f"{name}: {message}" if message != name else name


def _known(status: object) -> str:
    return str(status) if status in _TODO_STATES else "pending"


def usage_draft(usage: Usage) -> Draft:
    """Return the totals as a draft of a `usage` chunk."""
    text = f"{usage.requests} model calls, {usage.total_tokens} tokens, ${usage.cost_usd:.4f}"
    return Draft(type=ChunkType.USAGE, data=text, detail=usage.model_dump())
