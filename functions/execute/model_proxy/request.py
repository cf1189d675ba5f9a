"""An agent's request to a model: read within limits, checked, and rewritten for the provider.

Only what a provider can answer with tokens passes: every field, tool and reference that would make it store something,
reach the network in the agent's name or work in the background is refused or left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from ocf.events import untrusted_json
from ocf.events.untrusted_json import InvalidJson, OverLimit, parse_json
from ocf.functions.execute.model_proxy import gemini
from ocf.functions.execute.model_proxy.api_formats import CONVERSATION, max_tokens_field, tool_name
from ocf.functions.execute.model_proxy.string_placeholders import SHORT, BadRequest, Elided, elide
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import ModelTarget

P = ParamSpec("P")
T = TypeVar("T")
#: Bytes of a skeleton that is parsed in the event loop: a millisecond or two, the price of the way to a thread.
_INLINE = 64 * untrusted_json.KIB
#: Fields of a request that reach the provider; others are left out. `store` is set, see `_FORCED`.
_COMMON = frozenset(
    ("model", "stream", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs", "user")
)
_FIELDS: dict[Wire, frozenset[str]] = {
    "chat": _COMMON
    | {
        "messages", "max_tokens", "max_completion_tokens", "stop", "stream_options", "response_format", "seed",
        "reasoning_effort", "reasoning", "include_reasoning", "thinking", "enable_thinking", "thinking_budget",
        "chat_template_kwargs", "verbosity", "presence_penalty", "frequency_penalty", "repetition_penalty", "top_k",
        "min_p", "logit_bias", "logprobs", "functions", "function_call", "prompt_cache_key", "safety_identifier",
    },
    "responses": _COMMON
    | {
        "input", "instructions", "max_output_tokens", "reasoning", "text", "include", "truncation", "stream_options",
        "max_tool_calls", "prompt_cache_key", "safety_identifier",
    },
    "messages": _COMMON
    | {
        "messages", "system", "max_tokens", "stop_sequences", "top_k", "thinking", "output_config", "output_format",
        "context_management", "cache_control",
    },
    "gemini": gemini.FIELDS,
}  # fmt: skip
#: Fields that would make the provider work in the background, store something or reach the network. They are refused,
#: because dropping them silently would change the request's meaning.
_REFUSED: dict[str, str] = {
    "background": "an answer made in the background cannot be counted",
    "previous_response_id": "nothing is stored at the provider; send the whole conversation",
    "conversation": "nothing is stored at the provider; send the whole conversation",
    "prompt": "prompts stored at the provider bring tools of their own; send the text",
    "mcp_servers": "the provider would reach the network in the agent's name",
    "container": "the provider would run code in the agent's name",
    "web_search_options": "the provider would reach the network in the agent's name",
    "plugins": "the provider would reach the network in the agent's name",
    "cachedContent": "nothing is stored at the provider; send the whole conversation",
}
_FORCED: dict[Wire, dict[str, Any]] = {"responses": {"store": False}}
#: Types of tools that the agent itself carries out; all others are the provider's.
_OWN_TOOLS = (None, "function", "custom")
#: Objects within such a tool. Any other is a tool of a provider behind a gateway: `{"googleSearch": {}}`.
_TOOL_OBJECTS = frozenset(("function", "custom", "parameters", "input_schema", "format", "cache_control"))
#: Fields of a part, in camelCase, that hold a medium: a text, an object with one, or a list of these.
_MEDIA_FIELDS = frozenset(
    ("imageUrl", "videoUrl", "audioUrl", "documentUrl", "file", "inputAudio", "image", "audio", "video")
)
#: Fields of such an object; all but the first and the last may be in the part itself.
_MEDIUM_FIELDS = ("url", "fileUrl", "fileId", "serverUrl", "fileData", "data")
#: Ends of the names of fields whose text is a reference unless it is a data URL.
_REFERENCES = ("url", "file", "file_id", "fileid")
#: Rough cost of a data URL or base64 source: providers count images by their size, not by their bytes.
_MEDIUM_TOKENS = 2_000


@dataclass(frozen=True)
class ModelRequest:
    """A request as sent to the provider. `hide_usage`: the agent did not ask for the usage of its stream.

    `input_tokens` is an estimate (four bytes of text per token, a fixed number per image or document); `output_tokens`
    is the maximum of the answer.
    """

    data: bytes = field(repr=False)
    hide_usage: bool
    input_tokens: int
    output_tokens: int


async def off_loop(size: int, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns; a skeleton of more than `_INLINE` bytes is handled in a thread."""
    if size <= _INLINE:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def read(source: bytearray) -> tuple[Elided, dict[str, Any]]:
    """Return the agent's request with its long texts elided.

    Raises:
        OverLimit: it exceeds `limits.MODEL_REQUEST`, or `limits.MODEL_SKELETON` without its long texts.
        BadRequest: it is not a JSON object.
    """
    elided = await elide(source)
    try:
        body = await off_loop(len(elided.skeleton), parse_json, elided.skeleton, untrusted_json.MODEL_SKELETON, SHORT)
    except OverLimit:
        raise
    except InvalidJson as error:
        raise BadRequest(str(error)) from None
    if not isinstance(body, dict):
        raise BadRequest("the request body is not a JSON object")
    return elided, body


def prepare(
    wire: Wire, elided: Elided, body: dict[str, Any], target: ModelTarget, left: int | None, *, stream: bool = False
) -> ModelRequest:
    """Return the request as operator and caller want it.

    Args:
        wire: API format of the request.
        elided: the request's text.
        body: the request, parsed.
        target: the model.
        left: tokens left of the budget; None: no limit. An answer that does not stream cannot be cut in the middle, so
            it may not be longer.
        stream: whether the answer streams.

    Raises:
        BadRequest: it asks for something that the provider may not do here.
    """
    if wire == "gemini":
        body = gemini.normal(body)
    reject_forbidden(wire, elided, body, target.provider_tools)
    out, hide = rewrite(wire, body, target)
    media = list(_media(wire, body, elided))
    tokens = max(0, len(elided.source) - sum(media)) // 4 + _MEDIUM_TOKENS * len(media)
    name = max_tokens_field(wire, body, target)
    holder = gemini.config_of(out) if wire == "gemini" else out
    asked = holder.get(name)
    most = asked if isinstance(asked, int) and asked > 0 else untrusted_json.MODEL_OUTPUT_TOKENS
    if left is not None and most > left - tokens:
        most = max(1, left - tokens)
        if not stream:
            _bound(holder, name, most)
    return ModelRequest(elided.put_back(out), hide, tokens, most)


def rewrite(wire: Wire, body: Mapping[str, Any], target: ModelTarget) -> tuple[dict[str, Any], bool]:
    """Return the request as operator and caller want it, and whether its usage must be hidden from the agent.

    model, temperature and max_tokens of the target override what the agent sent; unknown fields and tools that are not
    enabled are taken out; a stream is asked to report its usage.
    """
    out = {name: value for name, value in body.items() if name in _FIELDS[wire]} | _FORCED.get(wire, {})
    holder = out
    if wire == "gemini":
        holder = gemini.config_of(out)
        holder.pop("candidateCount", None)  # each candidate may be as long as the limit, and only one is read
    else:
        out["model"] = target.wire_model
    if target.temperature is not None:
        holder["temperature"] = target.temperature
    if target.max_tokens is not None:
        _bound(holder, max_tokens_field(wire, body, target), target.max_tokens)
    if target.enabled_tools is not None and "tools" in out:
        out["tools"] = _enabled(wire, out["tools"], target.enabled_tools)
        if not out["tools"]:
            for name in ("tools", "tool_choice", "parallel_tool_calls", "toolConfig"):
                out.pop(name, None)
    hide = False
    if wire == "chat" and out.get("stream"):
        given = out.get("stream_options")
        options = dict(given) if isinstance(given, dict) else {}
        hide = not options.get("include_usage")
        out["stream_options"] = {**options, "include_usage": True}
    return out, hide


def _enabled(wire: Wire, tools: object, names: tuple[str, ...]) -> list[Any]:
    if wire == "gemini":
        return list(gemini.only(tools, names))
    return [tool for tool in _listed(tools) if tool_name(tool) in names]


def _bound(out: dict[str, Any], name: str, most: int) -> None:
    """Limit an answer to `most` tokens, whatever field the agent used for it."""
    for other in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        out.pop(other, None)
    out[name] = most


def reject_forbidden(wire: Wire, elided: Elided, body: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> None:
    """Reject requests that would make the provider do more than answer.

    Args:
        wire: API format of the request.
        elided: the request's text.
        body: the request, parsed.
        allowed: types of the provider's tools that may be used.

    Raises:
        BadRequest: names the field.
    """
    for name, why in _REFUSED.items():
        if body.get(name):
            raise BadRequest(f"{name}: {why}")
    for name in ("tools", CONVERSATION[wire]):
        value = body.get(name)
        # Some providers accept one object in place of a list, and the checks below read lists.
        if value is not None and not isinstance(value, list) and not (name == "input" and isinstance(value, str)):
            raise BadRequest(f"{name}: a list is needed{', or a text' * (name == 'input')}")
    for number, kind in _provider_tools(wire, body.get("tools")):
        if kind not in allowed:
            message = "the provider's tools would reach the network in the agent's name"
            message = f"{message}; function, custom and what MODEL_PROVIDER_TOOLS names pass"
            raise BadRequest(f"tools[{number}].type: {kind[:64]!r}: {message}")
    for place in gemini.references(body) if wire == "gemini" else _references(wire, body, elided):
        raise BadRequest(f"{place}: the provider would fetch it in the agent's name; send the data itself")


def _provider_tools(wire: Wire, tools: object) -> Iterator[tuple[int, str]]:
    """Yield number and type of each tool that the provider would carry out itself."""
    if wire == "gemini":
        yield from gemini.provider_tools(tools)
        return
    for number, tool in enumerate(_listed(tools)):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if kind not in _OWN_TOOLS:
            yield number, str(kind)
        elif isinstance(tool, dict):
            objects = (name for name, value in tool.items() if isinstance(value, dict))
            yield from ((number, name) for name in objects if name not in _TOOL_OBJECTS)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _parts(wire: Wire, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every part of the conversation that may hold media, also those within the results of tools."""
    waiting = [body.get(CONVERSATION[wire]), body.get("system"), body.get("instructions")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            yield part
            # Not `input` and `arguments`: those are the model's input to a tool of the agent.
            waiting += [part.get(name) for name in ("content", "output", "source")]


def _references(wire: Wire, body: Mapping[str, Any], elided: Elided) -> Iterator[str]:
    """Yield the fields that name something the provider would fetch; a data URL is not such a reference."""
    for part in _parts(wire, body):
        source = part.get("source")
        if part.get("type") == "url" or (isinstance(source, dict) and (source.get("url") or source.get("file_id"))):
            yield "source"
        for name, value in part.items():
            if gemini.camel(name) in _MEDIUM_FIELDS[1:-1]:
                held = [(name, value)]
            elif gemini.camel(name) in _MEDIA_FIELDS:
                held = list(_held(name, value))
            else:
                continue
            yield from (place for place, text in held if text and _fetched(place, text, elided))


def _held(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the values within a medium with their places."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in one.items() if gemini.camel(key) in _MEDIUM_FIELDS)
        else:
            yield name, one


def _fetched(place: str, value: object, elided: Elided) -> bool:
    """Return whether a value is an address or the name of a stored file; base64 has no colon and no escape."""
    head = elided.head(value).lower() if isinstance(value, str) else b":"
    return not head.startswith(b"data:") and (place.lower().endswith(_REFERENCES) or b":" in head or b"\\u" in head)


def _media(wire: Wire, body: Mapping[str, Any], elided: Elided) -> Iterator[int]:
    """Yield the bytes of each image or document: they are not text and no measure of its tokens."""
    if wire == "gemini":
        yield from (size for data in gemini.media(body) if (size := elided.size(data)) > 512)
        return
    for part in _parts(wire, body):
        for holder in (part, part.get("image_url"), part.get("file"), part.get("input_audio")):
            # A document of type `text` is text.
            if not isinstance(holder, dict) or holder.get("type") == "text":
                continue
            for name in ("data", "url", "file_data", "image_url"):
                text = holder.get(name)
                if isinstance(text, str) and (size := elided.size(text)) > 512:
                    yield size
