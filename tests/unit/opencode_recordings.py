"""Streams recorded from the real OpenCode 1.18.33, and what its database would hold at any moment of one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.agent.translate import Translator

FOLDER = Path(__file__).parent / "data" / "opencode"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
Event = dict[str, Any]


class Recording:
    """One recorded turn."""

    def __init__(self, name: str) -> None:
        data = json.loads((FOLDER / f"{name}.json").read_text())
        self.session: str = data["session"]
        self.directory: str = data["directory"]
        self.events: list[Event] = data["events"]
        self.messages: list[Event] = data["messages"]

    def translator(self) -> Translator:
        translator = Translator(self.session, self.directory)
        translator.begin_turn()
        return translator

    def resync(self, upto: int) -> Event:
        """What a client reads after `upto` events: deltas are never stored, whole parts are."""
        messages: dict[str, Event] = {}
        pending: dict[str, Event] = {}
        sessions, busy = [self.session], False
        for event in self.events[:upto]:
            kind, properties = event["type"], event["properties"]
            if kind == "message.updated":
                message = messages.setdefault(properties["info"]["id"], {"parts": {}})
                message["info"] = properties["info"]
            elif kind == "message.part.updated":
                part = properties["part"]
                messages[part["messageID"]]["parts"][part["id"]] = part
            elif kind == "session.created" and properties["info"].get("parentID"):
                sessions.append(properties["sessionID"])
            elif kind == "session.status" and properties["sessionID"] == self.session:
                busy = properties["status"]["type"] != "idle"
            elif kind in ("permission.asked", "question.asked"):
                pending[properties["id"]] = {**event, "kind": kind.split(".")[0] + "s"}
            elif kind in ("permission.replied", "question.replied"):
                pending.pop(properties["requestID"], None)
        stored = [{"info": m["info"], "parts": list(m["parts"].values())} for m in messages.values()]
        waiting = {
            kind: [e["properties"] for e in pending.values() if e["kind"] == kind]
            for kind in ("permissions", "questions")
        }
        state = {"sessions": sessions, "messages": copy.deepcopy(stored), "busy": busy, **waiting}
        return {"type": "ocf.resync", "properties": state}

    def whole(self) -> tuple[Translator, list[Draft]]:
        """Everything in order, once, and what is stored at the end."""
        translator = self.translator()
        drafts = [draft for event in self.events for draft in translator.feed(event)]
        return translator, drafts + translator.feed(self.resync(len(self.events)))


def essence(drafts: list[Draft]) -> dict[str, Any]:
    """What must be the same however the stream arrived."""
    said: dict[str, str] = {}
    once: list[str] = []
    for draft in drafts:
        detail = draft.detail or {}
        if draft.type in (ChunkType.TEXT, ChunkType.REASONING, ChunkType.STDOUT):
            key = f"{draft.type} {detail.get('part_id') or detail.get('call_id')}"
            said[key] = said.get(key, "") + draft.data
        elif draft.type in (ChunkType.TOOL_CALL, ChunkType.TOOL_RESULT, ChunkType.FILE_CHANGE):
            # The title grows while a tool runs: a call is the same whenever it was first seen.
            shown = {k: v for k, v in detail.items() if k != "title"}
            once.append(json.dumps([draft.type, draft.data, shown], sort_keys=True))
    todos = [draft.detail for draft in drafts if draft.type is ChunkType.TODO]
    return {"said": said, "once": sorted(once), "todo": todos[-1:]}
