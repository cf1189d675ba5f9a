"""Dead letters: messages that a consumer could not handle, in the stream `OCF_DLQ`, with the reason.

A letter lies on `ocf.dlq.<consumer>.<project>.<execution or session>`, so that those about one execution are removed by
their subject. A message that was read keeps its headers and data, and can be sent again. One that could not be read is
kept without its data, by size and SHA-256: nobody has checked what it holds. Releases before 0.3 wrote letters on
`ocf.dlq.<consumer>`; `move_old` moves them.
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
#: In place of project and entity where a message came on a subject that names none.
_NONE = "_"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
#: Headers of an event. Others, as `Nats-Rollup` or another letter's, say nothing about it.
_EVENT_HEADERS = ("ce-", "content-type", "traceparent", "tracestate")
#: What is kept of the headers of a message that could not be read, each value where it is one word.
_IDENTIFYING = ("ce-specversion", "ce-id", "ce-type", "content-type")
#: A message and its headers have 1 MiB; the letter's own headers take less than this.
_MOST, _OWN_HEADERS = 1024 * 1024, 32 * 1024
#: Characters of a reason that are kept; percent-encoded each takes up to twelve.
MAX_REASON = 2_000


@dataclass(frozen=True)
class Letter:
    """What a dead letter says about the message. `size` and `sha256` are set where its data was not kept.

    `sequence` is the message's in the stream it came from, `status` the HTTP status of the last answer (0: none).
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
        """Whether the message was kept whole, so that it can be sent again."""
        return self.sha256 is None


def compose(
    consumer: str, message: Message, *, status: int, reason: str, at: datetime, with_data: bool
) -> tuple[str, bytes, dict[str, str]]:
    """Subject, data and headers of the letter about `message`.

    Args:
        consumer: who could not handle it.
        message: as it was delivered.
        status: HTTP status of the last answer, 0 for none.
        reason: why; at most `MAX_REASON` characters are kept.
        at: when it was given up.
        with_data: keep headers and data. They are left out all the same where they do not fit in a message.
    """
    came_on = subjects.first(message.subject)
    headers = {k: v for k, v in message.headers.items() if k.lower().startswith(_EVENT_HEADERS)}
    if sum(len(k) + 4 * len(v) for k, v in headers.items()) + len(message.data) > _MOST - _OWN_HEADERS:
        with_data = False
    own = {
        "Ocf-Dlq-Consumer": consumer,
        "Ocf-Dlq-Subject": came_on,
        "Ocf-Dlq-Sequence": str(message.sequence),
        "Ocf-Dlq-Deliveries": str(message.deliveries),
        "Ocf-Dlq-Status": str(status),
        "Ocf-Dlq-Reason": quote(reason[:MAX_REASON].encode("utf-8", "replace"), safe=" ,.:;/'()[]{}=_-"),
        "Ocf-Dlq-Time": timestamp(at),
        # Only functions publish to this stream, so that nobody else can use an id up.
        "Nats-Msg-Id": f"dlq:{consumer}:{message.sequence}",
    }
    data = message.data
    if not with_data:
        headers = {k: v for k, v in headers.items() if k.lower() in _IDENTIFYING and quoted(v) == repr(v)}
        own |= {"Ocf-Dlq-Size": str(len(data)), "Ocf-Dlq-Sha256": hashlib.sha256(data).hexdigest()}
        data = b""
    return subject(consumer, came_on), data, {**headers, **own}


def subject(consumer: str, came_on: str) -> str:
    """Where the letter lies about a message that came on the subject `came_on`."""
    project, entity = _about(came_on)
    return f"ocf.dlq.{_token(consumer)}.{_token(project)}.{_token(entity)}"


def of_entity(project: str, entity: str) -> str:
    """The subjects of all letters about an execution or session."""
    return f"ocf.dlq.*.{_token(project)}.{_token(entity)}"


def read(message: Message) -> Letter:
    """The letter that a message of `OCF_DLQ` is, also of an earlier release."""
    headers = {name.lower(): value for name, value in message.headers.items()}
    size = headers.get("ocf-dlq-size")
    return Letter(
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
    """The headers of the event in a letter, without the letter's own: for publishing it again."""
    return {name: value for name, value in message.headers.items() if name.lower().startswith(_EVENT_HEADERS)}


async def delete(bus: Bus, project: str, entity: str) -> int:
    """Remove the letters about an execution or session; return how many."""
    return await bus.purge(subjects.DLQ, of_entity(project, entity))


async def move_old(bus: Bus) -> int:
    """Move the letters of earlier releases to the subjects where `delete` finds them; return how many."""
    moved = 0
    async for message in bus.history(subjects.DLQ, _OLD):
        letter = read(message)
        identity = {"Nats-Msg-Id": f"moved:{message.sequence}"}
        await bus.publish(subject(letter.consumer, letter.subject), message.data, {**message.headers, **identity})
        moved += await bus.remove(subjects.DLQ, message.sequence)
    return moved


def _about(came_on: str) -> tuple[str, str]:
    try:
        parsed = subjects.parse(came_on)
    except InvalidEvent:
        return _NONE, _NONE
    return parsed.project, parsed.entity


def _token(text: str) -> str:
    """`text` as one token of a subject: percent-encoded where it is odd, and cut."""
    return text if _TOKEN.fullmatch(text) else quote(text.encode("utf-8", "replace"), safe="").replace(".", "%2E")[:128]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else 0
