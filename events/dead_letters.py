"""Dead letters: messages that a consumer could not handle, in the stream `OCF_DLQ`, with the reason.

The subject is `ocf.dlq.<consumer>.<project>.<execution or session>`, so that the dead letters of one execution can be
purged by subject. A valid event is stored with its headers and data, and can be redriven. Of an invalid message only
size and SHA-256 are stored, because its content was not checked. Releases before 0.3 published on
`ocf.dlq.<consumer>`; `move_old` moves those dead letters.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, unquote

from ocf.events import subjects
from ocf.events.envelope import quoted, timestamp
from ocf.events.errors import InvalidEvent
from ocf.events.ports import Bus, Message

ALL = "ocf.dlq.>"
_OLD = "ocf.dlq.*"
#: Stands for project and entity if the subject of the message has none.
_NONE = "_"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
#: Prefixes of an event's own headers. Others, such as `Nats-Rollup` or those of a dead letter, are dropped.
_EVENT_HEADERS = ("ce-", "content-type", "traceparent", "tracestate")
#: Headers stored of an invalid message, if the value is a single word.
_IDENTIFYING = ("ce-specversion", "ce-id", "ce-type", "content-type")
#: Bytes of a message with its headers, and an upper bound of the dead letter's own headers.
_MOST, _OWN_HEADERS = 1024 * 1024, 32 * 1024
#: Characters stored of a reason; percent-encoded, a character takes up to twelve bytes.
MAX_REASON = 2_000


@dataclass(frozen=True)
class StoredDeadLetter:
    """A message of `OCF_DLQ`, without the data of the original message.

    `sequence` is the original message's in its own stream, `status` the HTTP status of the last response (0: none).
    `size` (bytes) and `sha256` describe data that was not stored.
    """

    consumer: str
    subject: str
    sequence: int
    deliveries: int
    status: int
    reason: str
    failed_at: str
    size: int | None = None
    sha256: str | None = None

    @property
    def has_data(self) -> bool:
        """Return whether the data was stored, so that the message can be redriven."""
        return self.sha256 is None


def compose(
    consumer: str, message: Message, *, status: int, reason: str, at: datetime, with_data: bool
) -> tuple[str, bytes, dict[str, str]]:
    """Return subject, data and headers of the dead letter for `message`.

    Args:
        consumer: The consumer that could not handle the message.
        message: The message as delivered.
        status: HTTP status of the last response, 0 for none.
        reason: The failure; at most `MAX_REASON` characters are stored.
        at: Time of the failure.
        with_data: Store headers and data, provided that they fit in one message.
    """
    original_subject = subjects.base_subject(message.subject)
    headers = {k: v for k, v in message.headers.items() if k.lower().startswith(_EVENT_HEADERS)}
    if sum(len(k) + 4 * len(v) for k, v in headers.items()) + len(message.data) > _MOST - _OWN_HEADERS:
        with_data = False
    own = {
        "Ocf-Dlq-Consumer": consumer,
        "Ocf-Dlq-Subject": original_subject,
        "Ocf-Dlq-Sequence": str(message.sequence),
        "Ocf-Dlq-Deliveries": str(message.deliveries),
        "Ocf-Dlq-Status": str(status),
        "Ocf-Dlq-Reason": quote(reason[:MAX_REASON].encode("utf-8", "replace"), safe=" ,.:;/'()[]{}=_-"),
        "Ocf-Dlq-Time": timestamp(at),
        # Only functions may publish to this stream, so no client can occupy a message id.
        "Nats-Msg-Id": f"dlq:{consumer}:{message.sequence}",
    }
    data = message.data
    if not with_data:
        headers = {k: v for k, v in headers.items() if k.lower() in _IDENTIFYING and quoted(v) == repr(v)}
        own |= {"Ocf-Dlq-Size": str(len(data)), "Ocf-Dlq-Sha256": hashlib.sha256(data).hexdigest()}
        data = b""
    return subject(consumer, original_subject), data, {**headers, **own}


def subject(consumer: str, original_subject: str) -> str:
    """Return the subject of the dead letter for a message received on `original_subject`."""
    project, entity = _project_and_entity(original_subject)
    return f"ocf.dlq.{_token(consumer)}.{_token(project)}.{_token(entity)}"


def entity_subjects(project: str, entity: str) -> str:
    """Return the subject filter of all dead letters of an execution or session."""
    return f"ocf.dlq.*.{_token(project)}.{_token(entity)}"


def of_project(project: str) -> str:
    """Return the subject filter of all dead letters of a project."""
    return f"ocf.dlq.*.{_token(project)}.*"


def read(message: Message) -> StoredDeadLetter:
    """Parse a message of `OCF_DLQ`, including those of earlier releases."""
    headers = {name.lower(): value for name, value in message.headers.items()}
    size = headers.get("ocf-dlq-size")
    return StoredDeadLetter(
        consumer=headers.get("ocf-dlq-consumer") or message.subject.split(".")[2],
        subject=headers.get("ocf-dlq-subject", ""),
        sequence=_number(headers.get("ocf-dlq-sequence")),
        deliveries=_number(headers.get("ocf-dlq-deliveries")),
        status=_number(headers.get("ocf-dlq-status")),
        reason=unquote(headers.get("ocf-dlq-reason", "")) or "no reason is given",
        failed_at=headers.get("ocf-dlq-time") or (timestamp(message.time) if message.time else ""),
        size=None if size is None else _number(size),
        sha256=headers.get("ocf-dlq-sha256"),
    )


def event_headers(message: Message) -> dict[str, str]:
    """Return the original event's headers, for a redrive."""
    return {name: value for name, value in message.headers.items() if name.lower().startswith(_EVENT_HEADERS)}


async def delete(bus: Bus, project: str, entity: str) -> int:
    """Remove the dead letters of an execution or session; return their number."""
    return await bus.purge(subjects.DLQ, entity_subjects(project, entity))


async def move_old(bus: Bus) -> int:
    """Move the dead letters of earlier releases to the current subjects; return their number."""
    moved = 0
    async for message in bus.history(subjects.DLQ, _OLD):
        letter = read(message)
        identity = {"Nats-Msg-Id": f"moved:{message.sequence}"}
        await bus.publish(subject(letter.consumer, letter.subject), message.data, {**message.headers, **identity})
        moved += await bus.remove(subjects.DLQ, message.sequence)
    return moved


def _project_and_entity(original_subject: str) -> tuple[str, str]:
    try:
        parsed = subjects.parse(original_subject)
    except InvalidEvent:
        return _NONE, _NONE
    return parsed.project, parsed.entity


def _token(text: str) -> str:
    """Return `text` as one subject token: percent-encoded if necessary, at most 128 characters."""
    return text if _TOKEN.fullmatch(text) else quote(text.encode("utf-8", "replace"), safe="").replace(".", "%2E")[:128]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else 0
