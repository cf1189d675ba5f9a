"""Translation of OpenCode's events to drafts of output: a pure state machine (no I/O, no clock).

Rule 1: text is published once. Deltas, whole-part updates and the messages read after a reconnect overlap; per part the
published length decides what is new. Rule 2: a delta has no offset. After a reconnect the deltas of a part that was
already open cannot be placed, so its text waits for the next whole-part update, which OpenCode sends when the part
ends. Rule 3: only text of the main session's assistant is `text`. Text of subagents and summaries is `reasoning`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ocf.events import untrusted_json
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, PendingRequest, Usage, status_draft
from ocf.functions.execute.agent.opencode_conversion import (
    failure,
    permission_waiting,
    question_waiting,
    todo_draft,
    usage_after,
)
from ocf.functions.execute.agent.text_accumulator import TextPart
from ocf.functions.execute.agent.tool_parts import ToolPart, feed_tool

_SEEN_LIMIT = 20_000
#: OpenCode's names for the ends of an incomplete answer (the AI SDK's finish reasons).
_CUT, _WITHHELD = "length", "content-filter"
#: Characters that are kept of a message's role and finish reason.
_WORD = 64


@dataclass
class _Message:
    session: str
    role: str
    summary: bool = False
    finished: bool = False
    finish: str = ""


class Translator:
    """One session (and the sessions its subagents open) from prompt to idle.

    After each `feed`, `idle` states whether the run is over, `error` why it failed, `usage` the totals so far,
    `result_text` the assistant's last message, `waiting` the unanswered requests.
    """

    def __init__(self, session: str, directory: str) -> None:
        self.session = session
        self.usage = Usage()
        self.idle = False
        self.aborted = False
        self.error: tuple[Reason, str] | None = None
        self.waiting: dict[str, PendingRequest] = {}
        self._directory = directory
        self._sessions = {session}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._messages: dict[str, _Message] = {}
        self._texts: dict[str, TextPart] = {}
        self._parts_of: dict[str, list[str]] = {}
        self._unpublished = 0
        self._tools: dict[str, ToolPart] = {}
        self._steps: set[str] = set()
        self._requested: set[str] = set()
        self._retry: object = None
        self._todo: object = None
        self._busy = False
        self._before: set[str] = set()
        self._handlers: dict[str, Callable[[dict[str, Any]], list[Draft]]] = {
            "session.created": self._on_session,
            "session.updated": self._on_session,
            "session.status": self._on_status,
            "session.idle": self._on_idle,
            "session.error": self._on_error,
            "session.compacted": self._on_compacted,
            "message.updated": lambda p: self._on_message(p["info"]),
            "message.part.updated": lambda p: self._on_part(p["part"]),
            "message.part.delta": self._on_delta,
            "todo.updated": self._on_todo,
            "permission.asked": self._on_permission,
            "permission.replied": self._on_replied,
            "question.asked": self._on_question,
            "question.replied": self._on_replied,
            "question.rejected": self._on_replied,
            "ocf.resync": self._on_resync,
        }

    @property
    def result_text(self) -> str:
        """Return the text of the main session's last assistant message that has any."""
        for key in sorted(self._messages, reverse=True):
            if self._is_answer(self._messages[key]):
                parts = sorted(one for one in self._parts_of.get(key, ()) if self._texts[one].kind == "text")
                text = "".join(self._texts[one].text() for one in parts)
                if text.strip():
                    return text
        return ""

    @property
    def unfinished(self) -> tuple[Reason, str] | None:
        """Return why the last answer is incomplete, though OpenCode reported no error."""
        mine = [key for key, message in self._messages.items() if key not in self._before and self._is_answer(message)]
        finish = self._messages[max(mine)].finish if mine else ""
        if finish == _CUT:
            text = "the model's last answer was cut at its output limit (finish reason length)"
            return Reason.MODEL_ERROR, f"{text}; model_config.max_tokens raises it"
        if finish == _WITHHELD:
            return Reason.MODEL_ERROR, "the model's provider withheld its last answer (finish reason content_filter)"
        return None

    def begin_turn(self) -> None:
        """Reset the end of the last prompt; published text stays published."""
        self.idle = self.aborted = self._busy = False
        self.error = self._retry = None
        self._before = {key for key, message in self._messages.items() if message.role == "assistant"}

    def feed(self, event: Mapping[str, Any]) -> list[Draft]:
        """Return drafts for the news in `event`; unknown types and other sessions' events give none."""
        handler = self._handlers.get(str(event.get("type")))
        properties = event.get("properties")
        if handler is None or not isinstance(properties, dict) or self._repeated(event.get("id")):
            return []
        return handler(properties)

    def _repeated(self, key: object) -> bool:
        if not isinstance(key, str) or len(key) > untrusted_json.AGENT_ID:
            return False
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _SEEN_LIMIT:
            self._seen.popitem(last=False)
        return False

    # Sessions and the run

    def _on_session(self, properties: dict[str, Any]) -> list[Draft]:
        info = properties.get("info", {})
        if info.get("parentID") in self._sessions:
            self._check_limit(self._sessions, info["id"])
            self._sessions.add(info["id"])
        return []

    def _on_status(self, properties: dict[str, Any]) -> list[Draft]:
        status = properties.get("status", {})
        if properties.get("sessionID") not in self._sessions:
            return []
        if status.get("type") == "retry":
            return self._on_retry(status)
        if properties["sessionID"] != self.session:
            return []
        if status.get("type") == "busy" and not self._busy:
            self._busy = True
            return [status_draft("the model is working", "model")]
        return self._on_idle(properties) if status.get("type") == "idle" else []

    def _on_retry(self, status: Mapping[str, Any]) -> list[Draft]:
        key = (status.get("attempt"), status.get("next"))
        if key == self._retry:
            return []
        self._retry = key
        return [status_draft(f"model call failed ({status.get('message')}), retry {status.get('attempt')}", "retry")]

    def _on_idle(self, properties: dict[str, Any]) -> list[Draft]:
        # Without a busy event before it, it belongs to the previous prompt.
        if properties.get("sessionID") == self.session and self._busy:
            self.idle = True
        return []

    def _on_error(self, properties: dict[str, Any]) -> list[Draft]:
        # A subagent's error is its tool's result; an error without a session is the server's own.
        if properties.get("sessionID", self.session) == self.session:
            self._failed(properties.get("error") or {})
        return []

    def _on_compacted(self, properties: dict[str, Any]) -> list[Draft]:
        mine = properties.get("sessionID") == self.session
        return [status_draft("the conversation was shortened to fit the model", "agent")] if mine else []

    def _failed(self, error: Mapping[str, Any]) -> None:
        if error.get("name") == "MessageAbortedError":
            self.aborted = True
        elif self.error is None:
            self.error = failure(error)

    # Messages and parts

    def _on_message(self, info: Mapping[str, Any]) -> list[Draft]:
        if info.get("sessionID") not in self._sessions:
            return []
        key = info["id"]
        known = key in self._messages
        finished = bool((info.get("time") or {}).get("completed"))
        summary, finish = info.get("summary") is True, str(info.get("finish") or "")[:_WORD]
        self._check_limit(self._messages, key)
        self._messages[key] = _Message(info["sessionID"], str(info["role"])[:_WORD], summary, finished, finish)
        if info["sessionID"] == self.session and key not in self._before and info.get("error"):
            self._failed(info["error"])
        return [] if known else [draft for part in self._parts_of.get(key, ()) for draft in self._text_drafts(part)]

    def _check_limit(self, known: Collection[str], key: str) -> None:
        """Raise OverLimit when OpenCode, possibly controlled by the agent, names implausibly many or long ids."""
        if len(key) > untrusted_json.AGENT_ID:
            raise untrusted_json.OverLimit(
                f"OpenCode sent an id of {len(key)} characters; at most {untrusted_json.AGENT_ID}"
            )
        if len(known) >= untrusted_json.AGENT_PARTS and key not in known:
            raise untrusted_json.OverLimit(f"OpenCode named more than {untrusted_json.AGENT_PARTS} messages or parts")

    def _on_part(self, part: Mapping[str, Any]) -> list[Draft]:
        if part.get("sessionID") not in self._sessions:
            return []
        kind = part.get("type")
        if kind in ("text", "reasoning") and not part.get("synthetic") and not part.get("ignored"):
            return self._on_text(part)
        if kind == "tool":
            return self._on_tool(part)
        if kind == "step-finish":
            return self._on_step(part)
        return []

    def _on_text(self, part: Mapping[str, Any]) -> list[Draft]:
        known = self._texts.get(part["id"]) or self._opened(part["id"], part["messageID"])
        known.kind = part["type"]
        before = known.unpublished
        lost = known.whole(str(part.get("text") or ""), ended=bool((part.get("time") or {}).get("end")))
        self._add_unpublished(known.unpublished - before)
        if not lost:
            return self._text_drafts(part["id"])
        detail = {"reason": "text_corrected", "part_id": part["id"], "bytes": None}
        gap = Draft(type=ChunkType.GAP, data="some of this text was lost on the way; it follows again", detail=detail)
        return [gap, *self._text_drafts(part["id"])]

    def _on_delta(self, properties: dict[str, Any]) -> list[Draft]:
        if properties.get("sessionID") not in self._sessions or properties.get("field") != "text":
            return []
        key = properties["partID"]
        if key in self._tools:
            return []
        part = self._texts.get(key) or self._opened(key, properties["messageID"], placed=False)
        if part.ended or not part.placed:
            return []
        before = part.unpublished
        part.delta(str(properties.get("delta") or ""))
        self._add_unpublished(part.unpublished - before)
        return self._text_drafts(key)

    def _opened(self, key: str, message: str, *, placed: bool = True) -> TextPart:
        self._check_limit(self._texts, key)
        self._check_limit(self._parts_of, message)
        self._parts_of.setdefault(message, []).append(key)
        self._texts[key] = TextPart(message, placed=placed)
        return self._texts[key]

    def _add_unpublished(self, characters: int) -> None:
        self._unpublished += characters
        if self._unpublished > untrusted_json.AGENT_UNATTRIBUTED:
            raise untrusted_json.OverLimit(
                f"OpenCode sent more than {untrusted_json.AGENT_UNATTRIBUTED} characters of no known message"
            )

    def _text_drafts(self, key: str) -> list[Draft]:
        part = self._texts[key]
        message = self._messages.get(part.message)
        if message is None or part.kind is None:
            return []  # waits for the event with its kind
        self._unpublished -= part.unpublished
        if message.role != "assistant":
            part.drop()  # it is not published, so no limit of the output bounds it
            return []
        if not (new := part.take()):
            return []
        kind = ChunkType.TEXT if part.kind == "text" and self._is_answer(message) else ChunkType.REASONING
        return [Draft(type=kind, data=new, detail={"part_id": key}, merge_key=key)]

    def _is_answer(self, message: _Message) -> bool:
        return message.session == self.session and message.role == "assistant" and not message.summary

    def _on_tool(self, part: Mapping[str, Any]) -> list[Draft]:
        child = ((part.get("state") or {}).get("metadata") or {}).get("sessionId")
        if part.get("tool") == "task" and isinstance(child, str):
            self._check_limit(self._sessions, child)
            self._sessions.add(child)
        self._check_limit(self._tools, part["id"])
        known = self._tools.setdefault(part["id"], ToolPart())
        finished = known.rank
        drafts = feed_tool(known, part, self._directory)
        if part.get("tool") == "todowrite" and known.rank > finished:
            # The list's own event may be lost with the stream; the tool part is stored.
            todos = part["state"].get("input", {}).get("todos")
            drafts += self._on_todo({"sessionID": part["sessionID"], "todos": todos}) if known.rank == 2 else []
        return drafts

    def _on_step(self, part: Mapping[str, Any]) -> list[Draft]:
        if part["id"] in self._steps:
            return []
        self._check_limit(self._steps, part["id"])
        self._steps.add(part["id"])
        self.usage = usage_after(self.usage, part)
        text = f"{self.usage.total_tokens} tokens, ${self.usage.cost_usd:.4f}"
        return [Draft(type=ChunkType.USAGE, data=text, detail=self.usage.model_dump(mode="json"))]

    # Todo list, permissions, questions

    def _on_todo(self, properties: dict[str, Any]) -> list[Draft]:
        todos = properties.get("todos")
        if properties.get("sessionID") != self.session or todos == self._todo or not isinstance(todos, list):
            return []
        self._todo = todos
        return [todo_draft(todos)]

    def _on_permission(self, request: Mapping[str, Any]) -> list[Draft]:
        return self._request_drafts(request, permission_waiting(request), ChunkType.PERMISSION)

    def _on_question(self, request: Mapping[str, Any]) -> list[Draft]:
        return self._request_drafts(request, question_waiting(request), ChunkType.QUESTION)

    def _request_drafts(self, request: Mapping[str, Any], waiting: PendingRequest, type: ChunkType) -> list[Draft]:
        if request.get("sessionID") not in self._sessions or waiting.request_id in self._requested:
            return []
        self._check_limit(self._requested, waiting.request_id)
        self._requested.add(waiting.request_id)
        self.waiting[waiting.request_id] = waiting
        detail = waiting.model_dump(mode="json", exclude_none=True)
        return [Draft(type=type, data=waiting.title, detail=detail)]

    def _on_replied(self, properties: dict[str, Any]) -> list[Draft]:
        answered = self.waiting.pop(str(properties.get("requestID")), None)
        if answered is None:
            return []
        reply = properties.get("reply") or ("given" if "answers" in properties else "rejected")
        return [status_draft(f"{answered.kind} answered: {reply}", "agent")]

    def _on_resync(self, state: dict[str, Any]) -> list[Draft]:
        self._sessions.update(state.get("sessions") or [])
        for part in self._texts.values():
            part.placed = part.placed and part.ended
        drafts: list[Draft] = []
        for message in state.get("messages") or []:
            drafts += self._on_message(message["info"])
            for part in message.get("parts") or []:
                drafts += self._on_part(part)
                if part["id"] in self._texts and not self._texts[part["id"]].ended:
                    self._texts[part["id"]].placed = False
        for request in state.get("permissions") or []:
            drafts += self._on_permission(request)
        for request in state.get("questions") or []:
            drafts += self._on_question(request)
        open_requests = {r["id"] for kind in ("permissions", "questions") for r in state.get(kind) or []}
        self.waiting = {key: value for key, value in self.waiting.items() if key in open_requests}
        if not state.get("busy") and self._answered():
            self.idle = True
        return drafts

    def _answered(self) -> bool:
        return any(
            message.finished and message.session == self.session and message.role == "assistant"
            for key, message in self._messages.items()
            if key not in self._before
        )
