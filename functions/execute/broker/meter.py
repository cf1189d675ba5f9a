"""Counts what a model's answer says about itself while it passes by."""

from __future__ import annotations

import json
import re
from typing import Any

from events.output import Usage
from functions.execute.broker.wire import Wire

#: Enough to know that the model had its say; see `Meter.finished`.
_FINISH = re.compile(
    rb'"(finish|stop)_reason"\s*:\s*"|"type"\s*:\s*"(message_stop|response\.(completed|incomplete|failed))"'
)
_ERROR = re.compile(rb'^(event: error|data: \{"(type": ?"error"|error": ?\{))', re.MULTILINE)
_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
#: One event may be this long; an upstream that sends more without a blank line is cut.
MAX_EVENT = 16 * 1024 * 1024


class TooLong(ValueError):
    """An event of the stream is longer than 16 MiB."""


def read_usage(wire: Wire, usage: dict[str, Any]) -> dict[str, int]:
    """A provider's usage object in our words. Cached tokens are counted once, apart from the input."""
    if wire == "messages":
        names = {
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            "cache_read_tokens": "cache_read_input_tokens",
            "cache_write_tokens": "cache_creation_input_tokens",
        }
        return {ours: int(usage[theirs]) for ours, theirs in names.items() if usage.get(theirs) is not None}
    prompt, completion = ("prompt", "completion") if wire == "chat" else ("input", "output")
    cached = int((usage.get(f"{prompt}_tokens_details") or {}).get("cached_tokens") or 0)
    reasoning = int((usage.get(f"{completion}_tokens_details") or {}).get("reasoning_tokens") or 0)
    return {
        "input_tokens": max(0, int(usage.get(f"{prompt}_tokens") or 0) - cached),
        "output_tokens": int(usage.get(f"{completion}_tokens") or 0),
        "cache_read_tokens": cached,
        "reasoning_tokens": reasoning,
    }


class Meter:
    """Follows one answer. `feed` takes bytes as they come and gives back whole server-sent events."""

    def __init__(self, wire: Wire, *, hide_usage: bool = False) -> None:
        self._wire = wire
        self._hide = hide_usage
        self._rest = b""
        self._seen: dict[str, int] = {}
        #: Pieces of model output so far; about one token each.
        self.pieces = 0
        #: The answer ended as answers end. Without it a closed stream was cut.
        self.finished = False
        #: The provider reported an error inside the stream.
        self.failed = False

    @property
    def reported(self) -> bool:
        """Whether the provider has said what the input cost. Servers that count nothing say 0, which is no answer."""
        return any(self._seen.get(name) for name in _INPUT)

    def usage(self, request_bytes: int = 0) -> Usage:
        """Tokens so far: as reported, and where nothing is, estimated (4 bytes of request, one piece, per token)."""
        seen = dict(self._seen)
        if not self.reported and (self.pieces or self.finished):
            seen["input_tokens"] = request_bytes // 4
        seen["output_tokens"] = max(seen.get("output_tokens", 0), 0 if self._complete() else self.pieces)
        return Usage(**seen)

    def _complete(self) -> bool:
        # Only a final report may be smaller than the number of pieces.
        return self.finished and self.reported

    @property
    def live_tokens(self) -> int:
        """At least this many tokens have been used; cheap enough to ask at every event."""
        seen = self._seen
        output = max(seen.get("output_tokens", 0), self.pieces)
        return output + sum(seen.get(name, 0) for name in _INPUT)

    def whole(self, body: bytes) -> None:
        """Read an answer that is one JSON object."""
        try:
            answer = json.loads(body)
        except ValueError:
            return
        self.finished = True
        if isinstance(answer, dict) and isinstance(answer.get("usage"), dict):
            self._seen.update(read_usage(self._wire, answer["usage"]))

    def feed(self, data: bytes) -> bytes:
        """The events that are complete, without those that only we asked for.

        Raises:
            TooLong: no event ends within 16 MiB.
        """
        data = self._rest + data
        if b"\r" in data:
            # A CR at the very end may be half of a line end.
            tail = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(tail)].replace(b"\r\n", b"\n") + tail
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            if len(data) > MAX_EVENT:
                raise TooLong
            self._rest = data
            return b""
        ready, self._rest = data[:end], data[end:]
        if not self._hide or b'"usage"' not in ready:
            for event in ready.split(b"\n\n"):
                self._event(event)
            return ready
        kept = [event for event in ready.split(b"\n\n") if not self._event(event)]
        return b"\n\n".join(kept)

    def rest(self) -> bytes:
        """What stands after the last blank line, when the stream has ended."""
        rest, self._rest = self._rest, b""
        self._event(rest)
        return rest

    def _event(self, event: bytes) -> bool:
        """Take note of one event; whether it must be hidden from the client."""
        if b'"delta"' in event:
            self.pieces += 1
        if not self.finished and (b"[DONE]" in event[-8:] or _FINISH.search(event)):
            self.finished = True
        if _ERROR.search(event):
            self.failed = True
        if b'"usage"' not in event:
            return False
        try:
            body = json.loads(event[event.index(b"data:") + 5 :])
        except ValueError:
            return False
        return self._note(body) if isinstance(body, dict) else False

    def _note(self, body: dict[str, Any]) -> bool:
        inner = body.get("message") or body.get("response") or body
        usage = inner.get("usage") if isinstance(inner, dict) else None
        if not isinstance(usage, dict):
            return False
        self._seen.update(read_usage(self._wire, usage))
        return self._hide and body.get("choices") == []
