"""Usage meter: reads the reported usage from a model's answer while it passes by."""

from __future__ import annotations

import re
from typing import Any

from ocf.events import untrusted_json
from ocf.events.output import Usage
from ocf.events.untrusted_json import InvalidJson, parse_json
from ocf.functions.execute.model_proxy import gemini
from ocf.functions.models.catalog import Wire

#: Marks the end of an answer; see `UsageMeter.finished`.
_FINISH = re.compile(
    rb'"(finish_reason|stop_reason|finishReason)"\s*:\s*"|"type"\s*:\s*"(message_stop|response\.(completed|incomplete|failed))"'
)
_ERROR = re.compile(rb'^(event: error|data: \{"(type": ?"error"|error": ?\{))', re.MULTILINE)
_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
#: Fields of the API formats that hold a model's output; tool calls count too.
_SAID = frozenset(
    ("content", "reasoning_content", "reasoning", "refusal", "text", "thinking", "partial_json", "arguments", "delta")
)
_CALLS = frozenset(("tool_use", "function_call", "custom_tool_call"))


def says_something(answer: object) -> bool:
    """Return whether an answer, or an event of one, has output of the model: a text, a tool call."""
    waiting = [answer]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            if value.get("type") in _CALLS or value.get("tool_calls") or value.get("functionCall"):
                return True
            if any(value.get(name) and isinstance(value[name], str) for name in _SAID):
                return True
            # The answers of `responses` repeat the request.
            waiting += [item for name, item in value.items() if name not in ("instructions", "tools", "text")]
    return False


def read_usage(wire: Wire, usage: dict[str, Any]) -> dict[str, int]:
    """Return a provider's usage object in our fields. Cached tokens are counted once, apart from the input."""
    if wire == "gemini":
        return gemini.read_usage(usage, _count)
    if wire == "messages":
        names = {
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            "cache_read_tokens": "cache_read_input_tokens",
            "cache_write_tokens": "cache_creation_input_tokens",
        }
        return {ours: _count(usage[theirs]) for ours, theirs in names.items() if usage.get(theirs) is not None}
    prompt, completion = ("prompt", "completion") if wire == "chat" else ("input", "output")
    cached = _detail(usage.get(f"{prompt}_tokens_details"), "cached_tokens")
    reasoning = _detail(usage.get(f"{completion}_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": max(0, _count(usage.get(f"{prompt}_tokens")) - cached),
        "output_tokens": _count(usage.get(f"{completion}_tokens")),
        "cache_read_tokens": cached,
        "reasoning_tokens": reasoning,
    }


def _detail(details: object, name: str) -> int:
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: object) -> int:
    """Return a number of tokens; 0 for anything else. More than 1e12 is implausible and would spoil every sum."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        return 0
    return int(value)


class UsageMeter:
    """Follows one answer. `feed` takes bytes as they come and gives back whole server-sent events."""

    def __init__(self, wire: Wire, *, hide_usage: bool = False) -> None:
        self._wire = wire
        self._hide = hide_usage
        self._remainder = bytearray()
        self._cr = False
        self._seen: dict[str, int] = {}
        #: Pieces of model output so far; about one token each.
        self.pieces = 0
        #: The model has produced output: a text, a tool call.
        self.spoke = False
        #: The answer ended properly; a stream that closes without that was cut.
        self.finished = False
        #: The provider reported an error inside the stream.
        self.failed = False

    @property
    def reported(self) -> bool:
        """Return whether the provider reported input tokens. A 0 does not count: some servers count nothing."""
        return any(self._seen.get(name) for name in _INPUT)

    def usage(self, input_tokens: int = 0) -> Usage:
        """Return the tokens so far: reported, or else estimated as `input_tokens` plus one per piece."""
        seen = dict(self._seen)
        if not self.reported:
            seen["input_tokens"] = input_tokens
        seen["output_tokens"] = max(seen.get("output_tokens", 0), 0 if self._complete() else self.pieces)
        return Usage(**seen)

    def _complete(self) -> bool:
        # Only a final report may be smaller than the number of pieces.
        return self.finished and self.reported

    def whole(self, body: bytes) -> None:
        """Read an answer that is one JSON object.

        Raises:
            OverLimit: it exceeds `limits.MODEL_ANSWER`.
        """
        try:
            answer = parse_json(body, untrusted_json.MODEL_ANSWER, "the model's answer")
        except InvalidJson:
            return
        self.finished = True
        self.spoke = says_something(answer)
        if isinstance(answer, dict):
            self._note(answer)

    def feed(self, data: bytes) -> bytes:
        """Return the complete events, without those that only we asked for. Each byte is read a few times.

        Raises:
            OverLimit: an event exceeds `limits.MODEL_ANSWER`.
        """
        if self._cr:
            data = b"\r" + data
        # A CR at the very end may be half of a line end.
        self._cr = data.endswith(b"\r")
        if b"\r" in data:
            data = (data[:-1] if self._cr else data).replace(b"\r\n", b"\n")
        # Only new bytes are searched, or an event in many pieces would be searched again with each.
        seen = max(0, len(self._remainder) - 1)
        self._remainder += data
        end = self._remainder.rfind(b"\n\n", seen) + 2
        if end == 1:
            untrusted_json.check_size(
                len(self._remainder), untrusted_json.MODEL_ANSWER, "an event of the model's answer"
            )
            return b""
        ready = bytes(self._remainder[:end])
        del self._remainder[:end]
        if not self._hide or b'"usage"' not in ready:
            for event in ready.split(b"\n\n"):
                self._event(event)
            return ready
        shown = [event for event in ready.split(b"\n\n") if not self._event(event)]
        return b"\n\n".join(shown)

    def remainder(self) -> bytes:
        """Return what stands after the last blank line, when the stream has ended."""
        remainder = bytes(self._remainder) + (b"\r" if self._cr else b"")
        self._remainder, self._cr = bytearray(), False
        self._event(remainder)
        return remainder

    def _event(self, event: bytes) -> bool:
        """Note one event; return whether it must be hidden from the client."""
        if not self.finished and (b"[DONE]" in event[-8:] or _FINISH.search(event)):
            self.finished = True
        if _ERROR.search(event):
            self.failed = True
        hidden = self._read(event)
        # Before the first output there is nothing to count: an empty answer costs what its provider reports.
        if self.spoke and (b'"delta"' in event or (self._wire == "gemini" and b'"parts"' in event)):
            self.pieces += 1
        return hidden

    def _read(self, event: bytes) -> bool:
        if (self.spoke and b'"usage' not in event) or b"data:" not in event:
            return False
        try:
            body = parse_json(
                event[event.index(b"data:") + 5 :], untrusted_json.MODEL_ANSWER, "an event of the model's answer"
            )
        except InvalidJson:
            return False
        self.spoke = self.spoke or says_something(body)
        return self._note(body) if isinstance(body, dict) else False

    def _note(self, body: dict[str, Any]) -> bool:
        inner = body.get("message") or body.get("response") or body
        usage = inner.get("usageMetadata" if self._wire == "gemini" else "usage") if isinstance(inner, dict) else None
        if not isinstance(usage, dict):
            return False
        self._seen.update(read_usage(self._wire, usage))
        return self._hide and body.get("choices") == []
