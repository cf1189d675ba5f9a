"""Output of a running execution: the payload of `dev.ocf.task.output.v1`.

The wire form is the same everywhere: the event's `data`, a line of `output.ndjson.gz`, a message of
`WS /tasks/{id}/stream` and an item of the history are the same JSON object, a `Chunk`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from ocf.events.base_model import ForwardCompatible, Model


class ChunkType(StrEnum):
    """Kind of a chunk. `data` is always readable text; `detail` has the fields named here.

    - text, reasoning: model output as it arrives; detail: {part_id}
    - tool_call: detail: ToolCall; tool_result: detail: ToolResult, `data` is the tool's output
    - stdout, stderr: output of a running shell tool as it arrives, of the task's setup, or of the agent's own process
    - file_change: detail: FileChange
    - status: a state or phase in words; detail: StatusDetail
    - usage: detail: Usage, totals so far
    - todo: detail: {items: [TodoItem]}, the agent's whole list
    - permission, question: the agent waits for an answer; detail: PendingRequest
    - gap: output that could not be stored; detail: {reason, bytes}
    """

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    STDOUT = "stdout"
    STDERR = "stderr"
    FILE_CHANGE = "file_change"
    STATUS = "status"
    USAGE = "usage"
    TODO = "todo"
    PERMISSION = "permission"
    QUESTION = "question"
    GAP = "gap"


class Usage(ForwardCompatible):
    """Totals of an execution so far: tokens as counted by the model's provider, cost in US dollars."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0

    @property
    def total_tokens(self) -> int:
        """All tokens that the model read and wrote."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


class ToolCall(Model):
    """The start of a tool call."""

    call_id: str
    tool: str
    title: str | None = None
    input: dict[str, Any] = {}


class ToolResult(Model):
    """The end of a tool call; with `output_truncated`, the chunk's `data` is incomplete."""

    call_id: str
    tool: str
    ok: bool
    title: str | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    output_truncated: bool = False


class FileChange(Model):
    """A file of the workspace that the agent changed; `path` is relative to the workspace."""

    path: str
    change: Literal["added", "modified", "deleted"]
    additions: int | None = None
    deletions: int | None = None


Phase = Literal["workspace", "setup", "agent", "model", "artifacts", "result", "retry"]


class StatusDetail(Model):
    """A state of the life cycle or a phase within running."""

    state: str | None = None
    phase: Phase | None = None
    attempt: int = 1


class TodoItem(ForwardCompatible):
    """One line of the agent's todo list."""

    content: str
    status: Literal["pending", "in_progress", "completed", "cancelled"]


class PendingRequest(ForwardCompatible):
    """A permission request or question of the agent; the reply names `request_id`."""

    request_id: str
    kind: Literal["permission", "question"]
    title: str
    options: list[str] = []
    deadline: datetime | None = None


class Chunk(ForwardCompatible):
    """One piece of output. `seq` counts without gaps from 1 per execution, over all attempts."""

    seq: Annotated[int, Field(ge=1)]
    type: ChunkType
    data: str = ""
    timestamp: datetime
    attempt: Annotated[int, Field(ge=1)] = 1
    detail: dict[str, Any] | None = None


class Draft(Model):
    """A chunk without sequence and time. Consecutive drafts with the same `merge_key` may be joined."""

    type: ChunkType
    data: str = ""
    detail: dict[str, Any] | None = None
    merge_key: str | None = None


def status_draft(text: str, phase: Phase) -> Draft:
    """Return a status chunk that states the phase of the run; its publisher adds the attempt."""
    return Draft(type=ChunkType.STATUS, data=text, detail={"phase": phase})
