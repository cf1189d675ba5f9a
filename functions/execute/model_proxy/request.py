"""An agent's request to a model: read within limits, judged, and written anew for the provider.

A conversation is megabytes of texts and images around a small structure. The long texts are left out (`Elided`), the
rest is parsed, judged and changed, and the texts are put back as they came. So the request is in memory twice at most,
a character outside Latin-1 does not make four bytes of each of its bytes, and nothing holds up the event loop for long.

What passes is what a provider can only answer with tokens: every field, tool and reference that would have it keep
something, reach the network in the agent's name or work on unseen is refused or left out.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ocf.events import limits
from ocf.events.limits import InvalidJson, OverLimit, parse_json
from ocf.functions.execute.model_proxy.providers import Wire, max_tokens_field, tool_name
from ocf.functions.models.model_target import ModelTarget

#: From where no text is open: the next long one, behind any number of short ones.
_LONG = re.compile(rb'(?:[^"]*+"[^"]{0,511}+")*+[^"]*+("[^"]{512,}+")')
_SLICE = 4 * limits.MIB
_SHORT = "the request without its long texts"

#: The fields of a request that reach the provider; others are left out. `store` is set, see `_FORCED`.
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
}  # fmt: skip
#: Fields that would have the provider work unseen, keep something or reach the network: their use is no oversight.
_REFUSED: dict[str, str] = {
    "background": "an answer made in the background cannot be counted",
    "previous_response_id": "nothing is stored at the provider; send the whole conversation",
    "conversation": "nothing is stored at the provider; send the whole conversation",
    "prompt": "prompts stored at the provider bring tools of their own; send the text",
    "mcp_servers": "the provider would reach the network in the agent's name",
    "container": "the provider would run code in the agent's name",
    "web_search_options": "the provider would reach the network in the agent's name",
    "plugins": "the provider would reach the network in the agent's name",
}
_FORCED: dict[Wire, dict[str, Any]] = {"chat": {}, "responses": {"store": False}, "messages": {}}
#: Tools that the agent itself carries out; all others are the provider's.
_OWN_TOOLS = (None, "function", "custom")
#: What a data URL or base64 source costs, roughly: providers count images by their size, not by their bytes.
_MEDIUM_TOKENS = 2_000


class BadRequest(ValueError):
    """The agent sent something that is no model request, or none that may pass."""


@dataclass
class Elided:
    """A JSON text without its long strings.

    `skeleton` has `"mark:N"` in place of the Nth of them, which is `source[start:end]` with its quotes.
    """

    source: bytearray = field(repr=False)
    skeleton: bytes = field(repr=False)
    mark: str
    spans: list[tuple[int, int]] = field(repr=False)

    def head(self, text: str) -> bytes:
        """The first bytes of a string of the skeleton, as it came."""
        if not text.startswith(self.mark):
            return text[:64].encode("utf-8", "replace")
        start, _ = self.spans[int(text[len(self.mark) :])]
        return bytes(self.source[start + 1 : start + 65])

    def size(self, text: str) -> int:
        """Its length in bytes."""
        if not text.startswith(self.mark):
            return len(text)
        start, end = self.spans[int(text[len(self.mark) :])]
        return end - start

    def put_back(self, body: object) -> bytes:
        """`body` as JSON, the long strings as they came.

        Raises:
            BadRequest: it has a number that JSON has not.
        """
        try:
            text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            raise BadRequest("the request body has a number that is too large") from None
        parts: list[bytes | memoryview] = []
        view = memoryview(self.source)
        done = 0
        for found in re.finditer(rb'"' + self.mark.encode() + rb'(\d+)"', text):
            start, end = self.spans[int(found[1])]
            parts += (text[done : found.start()], view[start:end])
            done = found.end()
        return b"".join((*parts, text[done:]))


async def elide(source: bytearray) -> Elided:
    """Leave out the long strings of a request; the event loop gets its turn in between.

    Raises:
        OverLimit: it is over `limits.MODEL_REQUEST`, or `limits.MODEL_SKELETON` without its long strings.
    """
    limit = limits.MODEL_REQUEST
    if len(source) > limit.bytes:
        raise OverLimit(f"the request: {len(source)} bytes; at most {limit.bytes}")
    # Of the same length, but without escapes: a string ends at the next quote.
    plain = bytearray()
    while len(plain) < len(source):
        piece = bytes(source[len(plain) : len(plain) + _SLICE])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece += bytes(source[len(plain) + len(piece) : len(plain) + len(piece) + 1])
        plain += piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        await asyncio.sleep(0)
    # Every string is a value or a key, and each value has one key at most.
    if (strings := plain.count(b'"') // 2) > 2 * limit.values:
        raise OverLimit(f"the request: {strings} strings; at most {2 * limit.values}")
    # Nobody can write it into a text before it is made.
    mark = f"{secrets.token_hex(16)}:"
    spans: list[tuple[int, int]] = []
    skeleton = bytearray()
    done = 0
    turn = 0
    while found := _LONG.match(plain, done):
        if done - turn > _SLICE:
            await asyncio.sleep(0)
            turn = done
        skeleton += source[done : found.start(1)]
        skeleton += b'"%s%d"' % (mark.encode(), len(spans))
        spans.append(found.span(1))
        done = found.end()
    limits.check_size(len(skeleton) + len(source) - done, limits.MODEL_SKELETON, _SHORT)
    skeleton += source[done:]
    return Elided(source, bytes(skeleton), mark, spans)


@dataclass(frozen=True)
class ModelRequest:
    """A request as it goes to the provider. `hide_usage`: only we asked for the usage of its stream.

    `input_tokens` is an estimate (four bytes of text, or a piece of media, each); `output_tokens` what it may use.
    """

    data: bytes = field(repr=False)
    hide_usage: bool
    input_tokens: int
    output_tokens: int


async def read(source: bytearray) -> tuple[Elided, dict[str, Any]]:
    """The agent's request, its long texts elided.

    Raises:
        OverLimit: it is over `limits.MODEL_REQUEST`, or `limits.MODEL_SKELETON` without its long texts.
        BadRequest: it is no JSON object.
    """
    elided = await elide(source)
    try:
        body = await asyncio.to_thread(parse_json, elided.skeleton, limits.MODEL_SKELETON, _SHORT)
    except OverLimit:
        raise
    except InvalidJson as error:
        raise BadRequest(str(error)) from None
    if not isinstance(body, dict):
        raise BadRequest("the request body is not a JSON object")
    return elided, body


def prepared(wire: Wire, elided: Elided, body: dict[str, Any], target: ModelTarget, left: int | None) -> ModelRequest:
    """The request as the operator and the caller want it.

    Args:
        left: tokens of the budget that are left; None: it has no bound. An answer that does not stream cannot be cut
            in the middle, so it may not be longer.

    Raises:
        BadRequest: it asks for what the provider may not do here.
    """
    stop_signal(wire, elided, body, target.provider_tools)
    out, hide = rewrite(wire, body, target)
    media = list(_media(wire, body, elided))
    tokens = max(0, len(elided.source) - sum(media)) // 4 + _MEDIUM_TOKENS * len(media)
    name = max_tokens_field(wire, body, target)
    asked = out.get(name)
    most = asked if isinstance(asked, int) and asked > 0 else limits.MODEL_OUTPUT_TOKENS
    if left is not None and most > left - tokens:
        most = max(1, left - tokens)
        if not out.get("stream"):
            _bound(out, name, most)
    return ModelRequest(elided.put_back(out), hide, tokens, most)


def rewrite(wire: Wire, body: Mapping[str, Any], target: ModelTarget) -> tuple[dict[str, Any], bool]:
    """The request as the operator and the caller want it, and whether usage was asked for by us only.

    model, temperature and max_tokens of the target win over what the agent sent; fields that are not known and tools
    that are not enabled are taken out; a stream is asked to report its usage.
    """
    out = {name: value for name, value in body.items() if name in _FIELDS[wire]} | _FORCED[wire]
    out["model"] = target.wire_model
    if target.temperature is not None:
        out["temperature"] = target.temperature
    if target.max_tokens is not None:
        _bound(out, max_tokens_field(wire, body, target), target.max_tokens)
    if target.enabled_tools is not None and "tools" in out:
        out["tools"] = [tool for tool in _listed(out["tools"]) if tool_name(tool) in target.enabled_tools]
        if not out["tools"]:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                out.pop(name, None)
    hide = False
    if wire == "chat" and out.get("stream"):
        given = out.get("stream_options")
        options = dict(given) if isinstance(given, dict) else {}
        hide = not options.get("include_usage")
        out["stream_options"] = {**options, "include_usage": True}
    return out, hide


def _bound(out: dict[str, Any], name: str, most: int) -> None:
    """Let an answer have at most so many tokens, whatever the agent called that bound."""
    for other in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        out.pop(other, None)
    out[name] = most


def stop_signal(wire: Wire, elided: Elided, body: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> None:
    """Refuse what would have the provider do more than answer; `allowed` are types of its tools that may be used.

    Raises:
        BadRequest: names the field.
    """
    for name, why in _REFUSED.items():
        if body.get(name):
            raise BadRequest(f"{name}: {why}")
    for number, tool in enumerate(_listed(body.get("tools"))):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if kind not in _OWN_TOOLS and kind not in allowed:
            shown = str(kind)[:64]
            said = "the provider's tools would reach the network in the agent's name"
            said = f"{said}; function, custom and what MODEL_PROVIDER_TOOLS names pass"
            raise BadRequest(f"tools[{number}].type: {shown!r}: {said}")
    for place, url in _references(wire, body):
        if not elided.head(url).lower().startswith(b"data:"):
            raise BadRequest(f"{place}: the provider would fetch it in the agent's name; send the data itself")


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _parts(wire: Wire, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every part of the conversation that may hold media, also those within the results of tools."""
    waiting = [*_listed(body.get("input" if wire == "responses" else "messages"))]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            # Not `input` and `arguments`: those are what the model says to a tool of the agent's.
            waiting += [inner for name in ("content", "output", "source") for inner in _inside(part.get(name))]


def _inside(value: object) -> list[Any]:
    return [value] if isinstance(value, dict) else _listed(value)


def _references(wire: Wire, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a part names something that the provider would fetch; a data URL is no such thing."""
    for part in _parts(wire, body):
        kind = part.get("type")
        if kind == "url" or (kind == "file" and "file_id" in part):
            yield "source", ""
        for name in ("image_url", "file", "video_url", "audio_url"):
            inner = part.get(name)
            urls = [inner.get("url"), inner.get("file_url")] if isinstance(inner, dict) else [inner]
            yield from ((name, url) for url in urls if isinstance(url, str))
            if isinstance(inner, dict) and inner.get("file_id"):
                yield f"{name}.file_id", ""
        for name in ("file_url", "file_id", "server_url"):
            if part.get(name):
                yield name, str(part[name])


def _media(wire: Wire, body: Mapping[str, Any], elided: Elided) -> Iterator[int]:
    """Bytes of each image or document: they are no text, and no measure of its tokens."""
    for part in _parts(wire, body):
        for holder in (part, part.get("image_url"), part.get("file"), part.get("input_audio")):
            # A document of type `text` is text.
            if not isinstance(holder, dict) or holder.get("type") == "text":
                continue
            for name in ("data", "url", "file_data", "image_url"):
                text = holder.get(name)
                if isinstance(text, str) and (size := elided.size(text)) > 512:
                    yield size
