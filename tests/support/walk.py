"""The walk of one event through the product's files, as calls that take the event show it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from starlette.requests import Request

from ocf.events.envelope import Event
from ocf.events.ports import Message

ROOT = Path(__file__).resolve().parents[2]
ROOMS = tuple(str(ROOT / room) + "/" for room in ("events", "functions"))


@dataclass
class Walk:
    """The files in which the event stayed, in order: a stay is a series of calls that take the event in one file."""

    stays: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def returns(self) -> int:
        """Stays in a file where the event had been before."""
        return len(self.stays) - len(set(self.stays))


@contextmanager
def followed(id_: str) -> Iterator[Walk]:
    """Record the walk of the event with this id during the calls within."""
    walk = Walk()
    seen: dict[int, FrameType] = {}  # a coroutine is called again with each step; a frame that lives keeps its id

    def on_call(frame: FrameType, what: str, _: Any) -> None:
        code = frame.f_code
        if what != "call" or id(frame) in seen or code.co_name.startswith("<"):
            return
        file = str(Path(code.co_filename).resolve())
        if not file.startswith(ROOMS) or "/adapters/" in file:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if code.co_name == "_heartbeat" or not any(carries(frame.f_locals.get(name)) for name in names):
            return  # a heartbeat runs beside the walk
        seen[id(frame)] = frame
        where = str(Path(file).relative_to(ROOT))
        walk.calls.append(f"{where}:{code.co_name}")
        if walk.stays[-1:] != [where]:
            walk.stays.append(where)

    def carries(value: object) -> bool:
        if isinstance(value, Event):
            return value.id == id_
        if type(value).__name__ == "CloudEvent":  # the SDK's, of releases that used it
            return bool(value["id"] == id_)  # type: ignore[index]
        if isinstance(value, Request):
            return value.headers.get("ce-id") == id_
        message = value if isinstance(value, Message) else getattr(value, "message", None)
        return isinstance(message, Message) and message.headers.get("ce-id") == id_

    sys.setprofile(on_call)
    try:
        yield walk
    finally:
        sys.setprofile(None)
