"""Parsing of commands in the form that the dispatcher delivers."""

from __future__ import annotations

import re
from typing import TypeVar

from ocf.events import subjects
from ocf.events.base_model import Model
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event, decode, parse, quoted
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.ports import Bus
from ocf.events.untrusted_json import EVENT, parse_json

M = TypeVar("M", bound=Model)

#: A subject token that is safe in the subject of a fact; it need not be a valid id.
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def ids_of(event: Event) -> tuple[str, str]:
    """Return project and execution (or session) of a command, from its subject or else from its data.

    Both are safe to use in a subject, but need not be valid ids.

    Raises:
        InvalidEvent: A name is missing or cannot be part of a subject.
    """
    subject = event.extensions.get(NATS_SUBJECT)
    if subject is not None:
        parsed = subjects.parse(subject)
        pair = (parsed.project, parsed.entity)
    else:
        pair = _from_data(event)
    for token in pair:
        if not TOKEN.fullmatch(token):
            raise InvalidEvent(f"{quoted(token)} cannot be part of a subject; use letters, digits and '-'")
    return pair


def _from_data(event: Event) -> tuple[str, str]:
    try:
        data = parse_json(event.data, EVENT)
        return str(data["project_id"]), str(data.get("execution_id") or data["session_id"])
    except (InvalidEvent, KeyError, TypeError, AttributeError):
        raise InvalidEvent("data: project_id and execution_id are required") from None


async def stored_command(bus: Bus, subject: str) -> Event:
    """Return the latest command on a subject, in the form that the dispatcher delivers.

    Raises:
        NotYetKnown: The stream has none.
    """
    message = await bus.last(subjects.COMMANDS, subject)
    if message is None:
        raise NotYetKnown(f"there is no command on {subject}")
    return decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: subject})


def command(event: Event, model: type[M], ids: tuple[str, str] | None = None) -> M:
    """Parse the event's data as `model`, and check that its ids match the subject.

    Args:
        event: The event.
        model: Type of the data.
        ids: The result of `ids_of(event)`, if the caller has it.

    Raises:
        InvalidEvent: The event has another type, or its ids differ from those of the subject.
        InvalidData: A field is invalid.
    """
    data = parse(event)
    if not isinstance(data, model):
        raise InvalidEvent(f"type: {event.type} is not for this function")
    entity = getattr(data, "execution_id", None) or getattr(data, "session_id", "")
    named = (str(getattr(data, "project_id", "")), str(entity))
    ids = ids or ids_of(event)
    if ids != named:
        raise InvalidEvent(f"data names {'/'.join(named)}, the subject {'/'.join(ids)}")
    return data
