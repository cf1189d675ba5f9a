"""Redaction of secrets that a provider returns in pieces: no single event of the stream holds the whole secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ocf.events import untrusted_json
from ocf.events.redaction import Redactor, StreamRedactor
from ocf.events.untrusted_json import InvalidJson, parse_json
from ocf.functions.execute.model_proxy import gemini

#: Fields of the API formats that hold the model's text; anything else is left unchanged.
_FIELDS = ("content", "reasoning_content", "reasoning", "refusal", "text", "thinking", "partial_json", "arguments")

Key = tuple[object, ...]
TextField = tuple[Key, dict[str, Any], str]


class StreamRedaction:
    """One stream. Text that could start a secret waits for what follows (see `StreamRedactor`)."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._streams: dict[Key, tuple[StreamRedactor, bytes]] = {}

    def feed(self, events: bytes) -> bytes:
        """Return whole events without secrets; some of their text may come with a later one."""
        return b"\n\n".join(self._event(event) if event else b"" for event in events.split(b"\n\n"))

    def _event(self, event: bytes) -> bytes:
        body = _body(event) if b'"delta"' in event or b'"parts"' in event else None
        fields = [] if body is None else list(_text_fields(body))
        # A ping arrives in between and ends no text.
        pinged = not fields and b'"ping"' in event
        remainders = [] if pinged else list(self._remainders({key for key, _, _ in fields}))
        changed = False
        for key, holder, name in fields:
            if key not in self._streams:
                self._streams[key] = (self._redactor.stream(), event)
            text = self._streams[key][0].feed(holder[name])
            if key[0] == "gemini" and b'"finishReason"' in event:
                # No event follows that could carry the rest.
                text += self._streams[key][0].flush()
            changed = changed or text != holder[name]
            holder[name] = text
        # Unchanged where possible: unknown content must not change in transit.
        return b"".join(remainders) + self._redactor.bytes(_with(event, body) if changed else event)

    def _remainders(self, going_on: set[Key]) -> Iterator[bytes]:
        """Yield what ended texts still held, each in an event like its first."""
        for key in [key for key in self._streams if key not in going_on]:
            stream, like = self._streams.pop(key)
            if remainder := stream.flush():
                body = _body(like)
                for other, holder, name in _text_fields(body):
                    holder[name] = remainder if other == key else ""
                yield _with(like, body) + b"\n\n"


def _body(event: bytes) -> Any:  # noqa: ANN401 - JSON of another program
    lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
    if len(lines) != 1:
        return None
    try:
        return parse_json(lines[0][5:], untrusted_json.MODEL_ANSWER, "an event of the model's answer")
    except InvalidJson:
        return None


def _with(event: bytes, body: object) -> bytes:
    data = b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"\n".join(data if line.startswith(b"data:") else line for line in event.split(b"\n"))


def _text_fields(body: object) -> Iterator[TextField]:
    """Yield each piece of the model's text in an event, with the key of the text it continues."""
    if not isinstance(body, dict):
        return
    yield from gemini.text_parts(body)
    if isinstance(body.get("delta"), str):  # responses
        yield (body.get("type"), body.get("item_id"), body.get("content_index")), body, "delta"
    yield from _below(body.get("delta"), (body.get("index"),))  # messages
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():  # chat
        if isinstance(choice, dict):
            yield from _below(choice.get("delta"), (choice.get("index"),))


def _below(delta: object, key: Key) -> Iterator[TextField]:
    if not isinstance(delta, dict):
        return
    for name in _FIELDS:
        if isinstance(delta.get(name), str):
            yield (*key, name), delta, name
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            yield from _below(call.get("function"), (*key, "call", call.get("index")))
