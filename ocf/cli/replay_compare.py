"""Comparison of two runs by output and actions, without data that always differs (times, ids, counts)."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_RUNNING = ("text", "reasoning", "stdout", "stderr")
_LEFT_OUT = ("usage", "heartbeat")
#: Characters of a step that are shown; all of it is compared.
_MOST = 400
#: Each run has a directory of its own.
_WORKSPACE = re.compile(r"/[^\s\"']*/slots/[0-9a-f]{32}/workspace")


@dataclass(frozen=True)
class Parting:
    """Number of equal steps from the start; the first steps that differ; and the whole difference as lines."""

    common: int
    a: str | None
    b: str | None
    lines: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Return whether there is no difference."""
        return self.a is None and self.b is None


def steps(chunks: Sequence[dict[str, Any]]) -> list[str]:
    """Return one line per output or action, independent of how texts were cut into chunks."""
    found: list[list[str]] = []
    for chunk in chunks:
        kind, data = chunk["type"], str(chunk.get("data") or "")
        if kind in _LEFT_OUT:
            continue
        if kind in _RUNNING and found and found[-1][0] == kind:
            found[-1][1] += data
        else:
            found.append([kind, _step_text(kind, data, chunk.get("detail") or {})])
    return [_WORKSPACE.sub(".", f"{kind}: {text}").replace("\n", "⏎") for kind, text in found]


def _step_text(kind: str, data: str, detail: dict[str, Any]) -> str:
    if kind == "tool_call":
        return f"{detail.get('tool', '')} {json.dumps(detail.get('input') or {}, sort_keys=True, ensure_ascii=False)}"
    if kind == "tool_result":
        code = f" exit {detail['exit_code']}" if detail.get("exit_code") is not None else ""
        return f"{'ok' if detail.get('ok') else 'failed'}{code} {data}"
    return data


def parting(a: list[str], b: list[str]) -> Parting:
    """Return the difference of two runs."""
    common = next((n for n, (one, two) in enumerate(zip(a, b, strict=False)) if one != two), min(len(a), len(b)))
    lines = tuple(line[:_MOST] for line in difflib.unified_diff(a, b, "A", "B", n=2, lineterm=""))[2:]
    first = [run[common][:_MOST] if common < len(run) else None for run in (a, b)]
    return Parting(common, first[0], first[1], lines)
