"""Gemini's generateContent (https://ai.google.dev/api/generate-content), as pure functions.

The model and the method are in the path, not in the body. The API takes each field in camelCase and in snake_case, and
one object in place of a list with one, so both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Path of a call below the version segment; `stream` is the method's.
PATH = re.compile(r"^/v1beta/models/[^/]+:(?:generateContent|(?P<stream>streamGenerateContent))$")
FIELDS = frozenset(("contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"))
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_INNER = ("parts", "functionResponse")


def camel(name: str) -> str:
    """Return a field's name in camelCase."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def upstream_path(model: str, *, stream: bool) -> str:
    """Return the path of a call below the target's base URL; `model` is quoted already."""
    return f"/models/{model}:streamGenerateContent?alt=sse" if stream else f"/models/{model}:generateContent"


def normal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with lists of tools and contents, and camelCase names, also those of `generationConfig`."""
    out = {camel(name): value for name, value in body.items()}
    out |= {name: [out[name]] for name in ("contents", "tools") if isinstance(out.get(name), dict)}
    config = out.get("generationConfig")
    if isinstance(config, dict):
        out["generationConfig"] = {camel(name): value for name, value in config.items()}
    return out


def config_of(out: dict[str, Any]) -> dict[str, Any]:
    """Return a request's `generationConfig`, for changes."""
    config = out.get("generationConfig")
    out["generationConfig"] = dict(config) if isinstance(config, dict) else {}
    return out["generationConfig"]  # type: ignore[no-any-return]


def provider_tools(tools: object) -> Iterator[tuple[int, str]]:
    """Yield number and name of each tool that the provider would carry out itself."""
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        for name in tool if isinstance(tool, dict) else (str(tool),):
            if name not in _DECLARATIONS:
                yield number, name


def only(tools: object, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the tools whose functions are in `names`."""
    kept: list[dict[str, Any]] = []
    for tool in tools if isinstance(tools, list) else ():
        for field in _DECLARATIONS if isinstance(tool, dict) else ():
            found = [one for one in _listed(tool.get(field)) if isinstance(one, dict) and one.get("name") in names]
            kept += [{field: found}] if found else []
    return kept


def parts(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every part of the conversation, also those within the results of functions."""
    waiting = [*_listed(body.get("contents")), body.get("systemInstruction")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            yield part
            waiting += [value for name, value in part.items() if camel(name) in _INNER]


def references(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that name a file, which the provider would fetch."""
    yield from (name for part in parts(body) for name in part if camel(name) == "fileData")


def media(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the data of each image or document."""
    for part in parts(body):
        for name in ("inlineData", "inline_data"):
            holder = part.get(name)
            if isinstance(holder, dict) and isinstance(holder.get("data"), str):
                yield holder["data"]


def read_usage(usage: Mapping[str, Any], count: Any) -> dict[str, int]:  # noqa: ANN401 - the meter's own
    """Return `usageMetadata` in our fields. Thoughts are billed as output."""
    cached, thoughts = count(usage.get("cachedContentTokenCount")), count(usage.get("thoughtsTokenCount"))
    prompt = count(usage.get("promptTokenCount")) + count(usage.get("toolUsePromptTokenCount"))
    return {
        "input_tokens": max(0, prompt - cached),
        "output_tokens": count(usage.get("candidatesTokenCount")) + thoughts,
        "cache_read_tokens": cached,
        "reasoning_tokens": thoughts,
    }


def text_parts(body: Mapping[str, Any]) -> Iterator[tuple[tuple[object, ...], dict[str, Any], str]]:
    """Yield each piece of the model's text in an event, with the key of the text it continues."""
    for candidate in _listed(body.get("candidates")):
        content = candidate.get("content") if isinstance(candidate, dict) else None
        for part in _listed(content.get("parts")) if isinstance(content, dict) else ():
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield ("gemini", candidate.get("index"), bool(part.get("thought"))), part, "text"


def canned(word: str) -> dict[str, Any]:
    """Return a one-word answer."""
    content = {"role": "model", "parts": [{"text": word}]}
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    return {
        "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage,
        "modelVersion": "ocf", "responseId": "ocf",
    }  # fmt: skip


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
