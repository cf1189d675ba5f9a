"""CloudEvents 1.0 to and from NATS messages and HTTP requests.

Binary and structured mode are read, binary is written (CloudEvents NATS Protocol Binding 1.0.2: lower-case
`ce-` headers, percent-encoded values; structured messages carry `Content-Type: application/cloudevents+json`).
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError

from events import trace
from events.errors import InvalidEvent
from events.facts import FieldError
from events.models import Model
from events.types import TYPES, EventType

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"

#: What need not be percent-encoded in a header value: printable ASCII but space, `"` and `%` (HTTP binding 3.1.3.2).
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_CORE = ("id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema")
_MAX_ATTRIBUTE = 4096
_DATA = b',"data":'


class InvalidData(InvalidEvent):
    """The event's data does not fit its type; `errors` names each field."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in errors))
        self.errors = errors


@dataclass(frozen=True)
class Event:
    """A CloudEvent. `data` is JSON as bytes; `extensions` are strings."""

    type: str
    source: str
    id: str
    time: datetime
    data: bytes
    subject: str | None = None
    datacontenttype: str = JSON
    extensions: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> EventType:
        """Its row of the catalogue. Raises InvalidEvent for a type or version we do not know."""
        try:
            return TYPES[self.type]
        except KeyError:
            raise InvalidEvent(f"type: {self.type[:120]!r} is not one of this system's event types") from None

    def headers(self) -> dict[str, str]:
        """Binary-mode headers, the same over NATS and HTTP."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": _encode(self.id),
            "ce-source": _encode(self.source),
            "ce-type": self.type,
            "ce-time": timestamp(self.time),
            "Content-Type": self.datacontenttype,
        }
        if self.subject:
            headers["ce-subject"] = _encode(self.subject)
        for name, value in self.extensions.items():
            headers[f"ce-{name}"] = _encode(value)
        return headers

    def structured(self) -> dict[str, Any]:
        """The event as one JSON object (CloudEvents JSON format)."""
        event: dict[str, Any] = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        if self.subject:
            event["subject"] = self.subject
        event["time"] = timestamp(self.time)
        event["datacontenttype"] = self.datacontenttype
        event.update(self.extensions)
        if self.data:
            event["data"] = json.loads(self.data)
        return event

    def line(self) -> bytes:
        """The event as one line of JSON, `data` last and byte for byte as it came (see `of_line`).

        Raises:
            ValueError: data is not JSON.
        """
        head = {name: value for name, value in self.structured().items() if name != "data"}
        start = _compact(head)[:-1]
        if not self.data:
            return start + b"}"
        if b"\n" in self.data or b"\r" in self.data:
            return start + b',"data_base64":"' + base64.b64encode(self.data) + b'"}'
        return start + _DATA + self.data + b"}"

    def with_extensions(self, **extensions: str) -> Event:
        """A copy with further extensions."""
        return replace(self, extensions={**self.extensions, **extensions})


def of_line(line: bytes) -> Event:
    """The event of `Event.line`, its data the same bytes.

    Raises:
        InvalidEvent: it is none.
    """
    event = _structured(STRUCTURED, line)
    _, found, data = line.strip().partition(_DATA)
    # A quote within an attribute is escaped, so the first `,"data":` is the member itself.
    return replace(event, data=data[:-1]) if found else event


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def timestamp(time: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_event(
    type_: str, data: Model, *, source: str, time: datetime, cause: Event | None = None, id_: str | None = None
) -> Event:
    """An event of our own about the execution (or session) that `data` names.

    `cause` gives the trace context, the correlation id and the causation id.
    """
    entity = str(getattr(data, "execution_id", None) or getattr(data, "session_id", ""))
    extensions = {"correlationid": entity, "partitionkey": entity}
    if cause is not None:
        extensions["causationid"] = cause.id
    # The active span is the nearer cause; without tracing the event's own context is passed on.
    extensions |= trace.active() or (trace.of(cause.extensions) if cause is not None else {})
    return Event(
        type=type_,
        source=source,
        id=id_ or str(uuid.uuid4()),
        time=time,
        data=data.model_dump_json(by_alias=True, exclude_none=True).encode(),
        subject=entity,
        extensions=extensions,
    )


def parse(event: Event) -> Model:
    """The event's data as the model of its type.

    Raises:
        InvalidData: every field that is wrong, by name.
        InvalidEvent: unknown type.
    """
    spec = event.spec
    try:
        return spec.data.model_validate_json(event.data, extra="forbid" if spec.from_callers else "ignore")
    except ValidationError as error:
        raise InvalidData(field_errors(error)) from None


def field_errors(error: ValidationError) -> list[FieldError]:
    """Pydantic's errors as field and message. The wrong value is left out: it may be a secret."""
    return [
        FieldError(field=".".join(str(part) for part in e["loc"]) or "data", message=e["msg"])
        for e in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def decode(headers: Mapping[str, str], body: bytes) -> Event:
    """A CloudEvent from a NATS message or an HTTP request, binary or structured.

    Raises:
        InvalidEvent: neither, or an attribute is missing or malformed; the message names it.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    content_type = lower.get("content-type", "").split(";")[0].strip().lower()
    if content_type.startswith("application/cloudevents-batch"):
        raise InvalidEvent("Content-Type: batches are not accepted; publish one event per message")
    if content_type.startswith("application/cloudevents"):
        return _structured(content_type, body)
    if "ce-specversion" not in lower:
        raise InvalidEvent(
            f"not a CloudEvent: neither a ce-specversion header (binary) nor Content-Type {STRUCTURED} (structured)"
        )
    attributes = {name[3:]: unquote(value) for name, value in lower.items() if name.startswith("ce-")}
    if content_type:
        attributes["datacontenttype"] = content_type
    return _event(attributes, body)


def _structured(content_type: str, body: bytes) -> Event:
    if content_type != STRUCTURED:
        raise InvalidEvent(f"Content-Type: {content_type!r} is not supported; use {STRUCTURED}")
    try:
        raw = json.loads(body)
    except ValueError as error:
        raise InvalidEvent(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidEvent("not a JSON object")
    data = b""
    if "data_base64" in raw:
        try:
            data = base64.b64decode(raw.pop("data_base64"), validate=True)
        except (ValueError, TypeError):
            raise InvalidEvent("data_base64: not base64") from None
    elif "data" in raw:
        data = json.dumps(raw.pop("data"), ensure_ascii=False).encode()
    return _event({k: _text(k, v) for k, v in raw.items() if v is not None}, data)


def _event(attributes: Mapping[str, str], data: bytes) -> Event:
    for name in ("id", "source", "type"):
        if not attributes.get(name):
            raise InvalidEvent(f"{name}: missing; CloudEvents requires it")
    for name, value in attributes.items():
        if len(value) > _MAX_ATTRIBUTE:
            raise InvalidEvent(f"{name[:40]}: longer than {_MAX_ATTRIBUTE} characters")
    if attributes.get("specversion") != "1.0":
        raise InvalidEvent(f"specversion: {attributes.get('specversion', '')[:20]!r} is not '1.0'")
    content_type = attributes.get("datacontenttype", JSON).split(";")[0].strip().lower()
    if content_type != JSON and not content_type.endswith("+json"):
        raise InvalidEvent(f"datacontenttype: {content_type[:80]!r} is not {JSON}")
    return Event(
        type=attributes["type"],
        source=attributes["source"],
        id=attributes["id"],
        time=_time(attributes.get("time")),
        data=data,
        subject=attributes.get("subject"),
        datacontenttype=content_type,
        extensions={k: v for k, v in attributes.items() if k not in _CORE},
    )


def _time(value: str | None) -> datetime:
    if value is None:
        return datetime.now(UTC)
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidEvent(f"time: {value[:60]!r} is not an RFC 3339 timestamp") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise InvalidEvent(f"{name[:40]}: an attribute must be a string, a number or a boolean")


def _encode(value: str) -> str:
    return quote(value, safe=_SAFE)
