"""Repetition: an agent that makes the same tool calls again and again, with the same results, is stuck."""

from __future__ import annotations

import hashlib
import json
from collections import deque

from ocf.events.output import ChunkType, Draft

#: The message to the agent, once.
ADVICE = (
    "You have made the same tool calls several times with the same results. Repeating them will not change anything. "
    "Do something else, or explain what prevents you and stop."
)
_PERIODS = (1, 2)


class Repetition:
    """Watches tool calls and results. Sub-agents are watched together with their agent: their calls differ.

    Args:
        times: calls that make a repetition: that many equal ones in a row, or that many of each of two that alternate;
            0 watches nothing.
    """

    def __init__(self, times: int) -> None:
        self._times = times
        self._inputs: dict[str, str] = {}
        self._seen: deque[str] = deque(maxlen=max(_PERIODS) * times)

    def note(self, draft: Draft) -> bool:
        """Take up a draft; return whether the calls up to it are a repetition, which then begins from nothing."""
        detail = draft.detail or {}
        if not self._times or draft.type not in (ChunkType.TOOL_CALL, ChunkType.TOOL_RESULT):
            return False
        call = str(detail["call_id"])
        if draft.type is ChunkType.TOOL_CALL:
            self._inputs[call] = _digest([detail["tool"], detail.get("input")])
            return False
        called = self._inputs.pop(call, None)
        if called is None:
            return False
        self._seen.append(_digest([called, detail["ok"], draft.data]))
        if not any(self._repeats(period) for period in _PERIODS):
            return False
        self._seen.clear()
        return True

    def _repeats(self, period: int) -> bool:
        size = period * self._times
        last = list(self._seen)[-size:]
        return len(last) == size and all(last[at] == last[at % period] for at in range(size))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "replace")).hexdigest()
