"""Comparison of two ended executions: what each did, step by step from the first difference on, and the two patches.

Times, ids, token counts and the division of a text into chunks are no differences.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from ocf.events.base_model import Model
from ocf.events.lifecycle import Reason, State
from ocf.events.output import Usage
from ocf.events.untrusted_json import ARCHIVE_LINE, KIB, MIB, parse_json

#: Bytes of each output and of each patch that are compared.
OUTPUT_BYTES, PATCH_BYTES = 64 * MIB, 8 * MIB
#: Steps of each execution that are shown, from shortly before the first difference.
_STEPS, _BEFORE = 200, 3
#: Characters of a step that are compared as text (the rest by its digest), and that are shown.
_COMPARED, _SHOWN = 256 * KIB, 2_000
#: Lines of one file's changes that are compared; lines of all files, and characters of each, that are shown.
_FILE_LINES, _LINES, _LINE = 1_000, 2_000, 500
_FILES = 200
#: Each execution has a directory of its own.
WORKSPACE = re.compile(r"/[^\s\"']*/slots/[0-9a-f]{32}/workspace")
_DIFF = re.compile(r"^(?=diff --git )", re.MULTILINE)

PARTS = ("plan", "tool_calls", "output")
#: What a chunk belongs to. The other types are the life cycle's, or follow from these.
_PART_OF = {
    "todo": "plan",
    "tool_call": "tool_calls",
    "tool_result": "tool_calls",
    "text": "output",
    "reasoning": "output",
    "stdout": "output",
    "stderr": "output",
    "permission": "output",
    "question": "output",
    "gap": "output",
}
#: Types whose consecutive chunks are one text.
_RUNNING = ("text", "reasoning", "stdout", "stderr")


class Step(Model):
    """One action or text of an execution. `text` is shortened; `seq` is the sequence of its first chunk."""

    seq: int
    type: str
    text: str


class Row(Model):
    """Steps of both executions that stand at the same place; a side without one is null."""

    same: bool
    a: Step | None = None
    b: Step | None = None


class FileDifference(Model):
    """A file that the two executions changed differently. `lines` is the difference of the two patches of the file."""

    path: str
    change: Literal["only_a", "only_b", "differs"]
    lines: list[str]


class Compared(Model):
    """One of the two executions. `missing` names what is no longer stored, or is too large to be compared whole."""

    execution_id: str
    status: State
    reason: Reason | None = None
    model: str | None = None
    duration_ms: int | None = None
    usage: Usage = Usage()
    steps: int = Field(0, description="texts and actions, whatever their chunks")
    tool_calls: int = 0
    calls: str = Field("", description="SHA-256 of the tools and arguments of all tool calls, without their results")
    missing: list[str] = Field(default_factory=list)


class Comparison(Model):
    """The difference of two executions. Tokens, cost and time are stated for each and are not part of `same`."""

    same: bool
    differs: list[Literal["end", "plan", "tool_calls", "output", "files"]]
    common_steps: int = Field(description="equal steps before the first difference")
    a: Compared
    b: Compared
    rows: list[Row] = Field(description="from shortly before the first difference; none without one")
    steps_left_out: int = Field(0, description="steps after the last row")
    files: list[FileDifference] = Field(default_factory=list)
    files_left_out: int = 0


@dataclass
class _Building:
    """A step whose chunks still arrive."""

    seq: int
    type: str
    head: list[str] = field(default_factory=list)
    size: int = 0
    rest: Any = None  # a digest, once the text is long

    def add(self, text: str) -> None:
        room = max(0, _COMPARED - self.size)
        self.head.append(text[:room])
        self.size += len(text)
        if len(text) > room:
            self.rest = self.rest or hashlib.sha256()
            self.rest.update(text[room:].encode("utf-8", "surrogatepass"))

    def built(self) -> tuple[Step, str]:
        text = WORKSPACE.sub(".", "".join(self.head))
        return Step(seq=self.seq, type=self.type, text=text), self.rest.hexdigest() if self.rest else ""


class Steps:
    """The steps of one output, read once. `truncated` says that the output has more bytes than are compared."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        self._source = self._read(lines)
        self.truncated = False
        self.total = self.tool_calls = 0
        self._digests = {part: hashlib.sha256() for part in PARTS}
        self._calls = hashlib.sha256()

    async def next(self) -> tuple[Step, str] | None:
        """Return the next step and the digest of what it has beyond its text, or None at the end."""
        return await anext(self._source, None)

    def digest(self, part: str) -> bytes:
        """Return a digest of the steps of one part so far."""
        return self._digests[part].digest()

    @property
    def calls(self) -> str:
        """Return a digest of the tool calls so far, without their results, which have times in them."""
        return self._calls.hexdigest()

    async def _read(self, lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[Step, str]]:
        size, building = 0, None
        async for line in lines:
            size += len(line)
            if size > OUTPUT_BYTES:
                self.truncated = True
                break
            chunk = parse_json(line, ARCHIVE_LINE, "a chunk")
            kind, detail = chunk["type"], chunk.get("detail") or {}
            # The output of a tool is in its result; when which piece of it arrived is chance.
            if kind not in _PART_OF or (kind in ("stdout", "stderr") and detail.get("call_id")):
                continue
            if building is not None and not (kind == building.type and kind in _RUNNING):
                yield self._count(building)
                building = None
            building = building or _Building(chunk["seq"], kind)
            building.add(_text_of(kind, str(chunk.get("data") or ""), detail))
        if building is not None:
            yield self._count(building)

    def _count(self, building: _Building) -> tuple[Step, str]:
        step, rest = building.built()
        part = _PART_OF[step.type]
        self.total += 1
        line = json.dumps([step.type, step.text, rest]).encode()
        self._digests[part].update(line)
        if step.type == "tool_call":
            self.tool_calls += 1
            self._calls.update(line)
        return step, rest


def _text_of(kind: str, data: str, detail: dict[str, Any]) -> str:
    if kind == "todo":
        items = detail.get("items") or []
        return "\n".join(f"{item.get('status')}: {item.get('content')}" for item in items)
    if kind == "tool_call":
        return f"{detail.get('tool', '')} {json.dumps(detail.get('input') or {}, sort_keys=True, ensure_ascii=False)}"
    if kind == "tool_result":
        code = f" exit {detail['exit_code']}" if detail.get("exit_code") is not None else ""
        return f"{'ok' if detail.get('ok') else 'failed'}{code}\n{data}"
    return data


@dataclass(frozen=True)
class StepDifference:
    """Result of `compare_steps`: equal steps at the start, the rows after them, steps not shown, differing parts."""

    common: int
    rows: list[Row]
    left_out: int
    differs: list[str]


async def compare_steps(a: Steps, b: Steps) -> StepDifference:
    """Read both outputs to their ends, in constant memory, and return where they part.

    Raises:
        InvalidEvent, KeyError, TypeError, AttributeError: A line is not a chunk.
    """
    common, before = 0, list[tuple[Step, str]]()
    one, two = await a.next(), await b.next()
    while one is not None and two is not None and _key(one) == _key(two):
        common += 1
        before = [*before[1 - _BEFORE :], one]
        one, two = await a.next(), await b.next()
    windows, left_out = list[list[tuple[Step, str]]](), 0
    for steps, first in ((a, one), (b, two)):
        window = list[tuple[Step, str]]()
        while first is not None:
            if len(window) < _STEPS:
                window.append(first)
            else:
                left_out += 1
            first = await steps.next()
        windows.append(window)
    rows = _aligned(*windows)
    if rows:
        rows = [Row(same=True, a=_shown(step), b=_shown(step)) for step, _ in before] + rows
    differs = [part for part in PARTS if a.digest(part) != b.digest(part)]
    if rows and not differs:  # only their order
        differs = sorted({_PART_OF[step.type] for row in rows for step in (row.a, row.b) if step and not row.same})
    return StepDifference(common, rows, left_out, differs)


def _key(step: tuple[Step, str]) -> tuple[str, str, str]:
    return step[0].type, step[0].text, step[1]


def _aligned(a: Sequence[tuple[Step, str]], b: Sequence[tuple[Step, str]]) -> list[Row]:
    rows: list[Row] = []
    matcher = difflib.SequenceMatcher(None, [_key(step) for step in a], [_key(step) for step in b], autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        mine, theirs = [step for step, _ in a[a1:a2]], [step for step, _ in b[b1:b2]]
        if tag == "equal":
            rows += [Row(same=True, a=_shown(x), b=_shown(y)) for x, y in zip(mine, theirs, strict=True)]
            continue
        while mine or theirs:
            if mine and theirs and mine[0].type == theirs[0].type:
                x, y = mine.pop(0), theirs.pop(0)
                start = _parting(x.text, y.text)
                rows.append(Row(same=False, a=_shown(x, start), b=_shown(y, start)))
            elif mine and (not theirs or len(mine) >= len(theirs)):
                rows.append(Row(same=False, a=_shown(mine.pop(0))))
            else:
                rows.append(Row(same=False, b=_shown(theirs.pop(0))))
    return rows


def first_difference(a: str, b: str) -> int:
    """Return the number of characters that two texts have in common at their beginnings."""
    # By halves: comparing slices is far faster than comparing characters.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _parting(a: str, b: str) -> int:
    """Return where two texts begin to differ, if that is beyond what would be shown, less some context."""
    at = first_difference(a, b)
    return at - _SHOWN // 4 if at > _SHOWN // 2 else 0


def _shown(step: Step, start: int = 0) -> Step:
    text = ("…" if start else "") + step.text[start : start + _SHOWN]
    return step.model_copy(update={"text": text + ("…" if len(step.text) > start + _SHOWN else "")})


def compare_patches(a: str, b: str) -> tuple[list[FileDifference], int]:
    """Return the files that two patches change differently, and the number of further ones."""
    mine, theirs = _sections(a), _sections(b)
    differing = [path for path in sorted(mine.keys() | theirs.keys()) if mine.get(path) != theirs.get(path)]
    found, room = [], _LINES
    for path in differing[:_FILES]:
        lines = [line[:_LINE] for line in _difference(mine.get(path, ""), theirs.get(path, ""))[:room]]
        room -= len(lines)
        change: Literal["only_a", "only_b", "differs"] = "differs"
        if path not in theirs or path not in mine:
            change = "only_a" if path in mine else "only_b"
        found.append(FileDifference(path=path[:_LINE], change=change, lines=lines))
    return found, len(differing) - len(found)


def _sections(patch: str) -> dict[str, str]:
    """Return the part of each file by its path."""
    return {_path(section.split("\n", 1)[0]): section for section in _DIFF.split(patch) if section.strip()}


def _path(head: str) -> str:
    """Return the path in `diff --git a/PATH b/PATH`, which may have quotes and spaces; both names are the same here."""
    names = head.removeprefix("diff --git ")
    first = names[: len(names) // 2].strip('"')
    return first.removeprefix("a/")


def _difference(a: str, b: str) -> list[str]:
    one, two = (
        [line for line in text.split("\n") if not line.startswith(("diff --git ", "index "))] for text in (a, b)
    )
    if max(len(one), len(two)) > _FILE_LINES:
        return [f"… more than {_FILE_LINES} lines differ or surround the difference"]
    return list(difflib.unified_diff(one, two, "A", "B", lineterm="", n=3))[2:]
