"""Drafts of OpenCode's tool parts: call, live output, result, changed files. Pure.

A tool part arrives many times: pending (input still arriving), running (again with every piece of a shell's output),
completed or error. Each state is published once, in that order, whatever arrives twice or late.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ocf.events.output import ChunkType, Draft, FileChange, ToolCall, ToolResult

Change = Literal["added", "modified", "deleted"]

#: OpenCode's mark of a window that no longer starts at the output's first character (it holds the last 30,000).
_CUT = "...\n\n"
#: A longer window is not OpenCode's; only its last part is compared, to bound the cost.
_WINDOW, _LONGEST_WINDOW = 30_000, 65_536
_NOTHING = "(no output)"
#: Text that OpenCode appends about a time-out or an abort, for the model.
_METADATA = "\n\n<shell_metadata>"
_OVERLAP_PROBE = 256
_OVERLAP_TRIES = 64
_RANK = {"pending": 0, "running": 1, "completed": 2, "error": 2}


@dataclass
class ToolPart:
    """Published state of one tool part."""

    rank: int = -1
    called: bool = False
    window: str = ""
    cut: bool = False


def feed_tool(known: ToolPart, part: Mapping[str, Any], directory: str) -> list[Draft]:
    """Return drafts for the news in `part` and update `known`."""
    state = part.get("state", {})
    rank = _RANK.get(state.get("status", ""), -1)
    if rank < known.rank or known.rank == 2 or rank < 1:
        return []
    known.rank = rank
    name, call_input = _named(part, state)
    call = str(part.get("callID", part.get("id", "")))
    drafts: list[Draft] = []
    if not known.called:
        known.called = True
        title = state.get("title") or None
        detail = ToolCall(call_id=call, tool=name, title=title, input=call_input)
        drafts.append(Draft(type=ChunkType.TOOL_CALL, data=_call_text(name, call_input), detail=_dump(detail)))
    metadata = state.get("metadata") or {}
    if name == "bash":
        output = str(metadata.get("output") or "")
        drafts += _shell_output(known, call, output.split(_METADATA)[0] if rank == 2 else output)
    if rank == 2:
        known.window = ""
        drafts.append(_result(part, name, call))
        if state.get("status") == "completed":
            changes = file_changes(name, call_input, metadata, directory)
            drafts += [change_draft(change) for change in changes]
    return drafts


def change_draft(change: FileChange) -> Draft:
    """Return a file change as a draft."""
    return Draft(type=ChunkType.FILE_CHANGE, data=f"{change.change} {change.path}", detail=_dump(change))


def file_changes(tool: str, call: Mapping[str, Any], metadata: Mapping[str, Any], directory: str) -> list[FileChange]:
    """Return the changes inside the workspace that a completed tool reports."""
    if tool == "write":
        path = relative(metadata.get("filepath") or call.get("filePath"), directory)
        new = metadata.get("exists") is False
        lines = len(str(call.get("content", "")).splitlines()) if new else None
        found = [(path, "added" if new else "modified", lines, 0 if new else None)]
    elif tool in ("edit", "multiedit"):
        diff = metadata.get("filediff") or {}
        path = relative(diff.get("file") or call.get("filePath"), directory)
        change: Change = "added" if call.get("oldString") == "" else "modified"
        found = [(path, change, diff.get("additions"), diff.get("deletions"))]
    elif tool in ("apply_patch", "patch"):
        found = [row for file in metadata.get("files") or [] for row in _patched(file, directory)]
    else:
        found = []
    return [
        FileChange.model_validate({"path": path, "change": change, "additions": added, "deletions": deleted})
        for path, change, added, deleted in found
        if path is not None
    ]


def relative(path: object, directory: str) -> str | None:
    """Return `path` relative to the workspace; None when it is outside of it."""
    if not isinstance(path, str) or not path:
        return None
    inside = os.path.relpath(os.path.join(directory, path), directory)
    return None if inside == "." or inside.startswith("..") else inside


def _patched(file: Mapping[str, Any], directory: str) -> list[tuple[str | None, str, int | None, int | None]]:
    path = relative(file.get("filePath") or file.get("relativePath"), directory)
    counts = (file.get("additions"), file.get("deletions"))
    kind = file.get("type")
    if kind == "move":
        return [(path, "deleted", None, None), (relative(file.get("movePath"), directory), "added", *counts)]
    return [(path, {"add": "added", "delete": "deleted"}.get(str(kind), "modified"), *counts)]


def _named(part: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    call = state.get("input")
    call = dict(call) if isinstance(call, Mapping) else {}
    if part.get("tool") == "invalid":
        # OpenCode renames the tool of a call it could not make; report the one that the model requested.
        return str(call.get("tool", "invalid")), call
    return str(part.get("tool", "")), call


def _call_text(name: str, call: Mapping[str, Any]) -> str:
    for key in ("command", "filePath", "pattern", "path", "url", "description"):
        if isinstance(call.get(key), str):
            return f"{name} {call[key]}"
    return name


def _result(part: Mapping[str, Any], name: str, call: str) -> Draft:
    state = part["state"]
    metadata = state.get("metadata") or {}
    code = metadata.get("exit") if isinstance(metadata.get("exit"), int) else None
    completed = state.get("status") == "completed" and part.get("tool") != "invalid"
    time = state.get("time") or {}
    ok = completed and (code == 0 if name == "bash" else True)
    took = int(time["end"] - time["start"]) if "end" in time and "start" in time else None
    detail = ToolResult(
        call_id=call,
        tool=name,
        ok=ok,
        title=state.get("title") or None,
        duration_ms=took,
        exit_code=code,
        output_truncated=bool(metadata.get("truncated")),
    )
    data = state.get("output") if state.get("status") == "completed" else state.get("error")
    return Draft(type=ChunkType.TOOL_RESULT, data=str(data or ""), detail=_dump(detail))


def _shell_output(known: ToolPart, call: str, output: str) -> list[Draft]:
    """Return drafts for the output added since the last window; `output` is the last 30,000 characters."""
    if len(output) > _LONGEST_WINDOW:
        output = _CUT + output[-_WINDOW:]
    cut = output.startswith(_CUT) and (known.cut or len(output) > len(known.window))
    window = output.removeprefix(_CUT) if cut else output
    before, known.window = known.window, window
    was_cut, known.cut = known.cut, cut
    if not window or (window == _NOTHING and not before):
        known.window = before
        return []
    if not cut:
        if not window.startswith(before) or was_cut:
            known.window, known.cut = before, was_cut
            return []
        return _stdout(call, window[len(before) :])
    overlap = _overlap(before, window)
    if overlap == 0 and before:
        lost = Draft(
            type=ChunkType.GAP,
            data="the shell wrote faster than its output could be read",
            detail={"reason": "shell_output", "call_id": call, "bytes": None},
        )
        return [lost, *_stdout(call, window)]
    return _stdout(call, window[overlap:])


def _stdout(call: str, new: str) -> list[Draft]:
    detail = {"call_id": call}
    return [Draft(type=ChunkType.STDOUT, data=new, detail=detail, merge_key=f"stdout:{call}")] if new else []


def _overlap(before: str, window: str) -> int:
    """Return the length of the longest prefix of `window` that is a suffix of `before`.

    Output that repeats itself within 30,000 characters can overlap in several ways; the longest is taken.
    """
    probe = before[-_OVERLAP_PROBE:]
    end = len(window)
    for _ in range(_OVERLAP_TRIES):
        at = window.rfind(probe, 0, end) if probe else -1
        if at < 0:
            return 0
        length = at + len(probe)
        if before.endswith(window[:length]) or len(before) < length:
            return length
        end = length - 1
    return 0


def _dump(detail: ToolCall | ToolResult | FileChange) -> dict[str, Any]:
    return detail.model_dump(mode="json", exclude_none=True)
