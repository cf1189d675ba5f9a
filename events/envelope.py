"""CloudEvents 1.0 to and from NATS messages and HTTP requests.

Reads binary and structured mode, writes binary mode (CloudEvents NATS Protocol Binding 1.0.2: lower-case `ce-` headers,
percent-encoded values; structured messages have `Content-Type: application/cloudevents+json`).
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError

from ocf.events import trace_context, untrusted_json
from ocf.events.base_model import Model
from ocf.events.errors import InvalidEvent
from ocf.events.event_types import TYPES, EventType
from ocf.events.fact_payloads import FieldError

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"

#: Characters that a header value has unencoded: printable ASCII except space, `"` and `%` (HTTP binding 3.1.3.2).
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_CORE = ("id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema")
_MAX_ATTRIBUTE = 4096
_MAX_ATTRIBUTES = 64
#: An attribute's name (CloudEvents 1.0.2, Naming Conventions; its limit of 20 characters is a recommendation).
_NAME = re.compile(r"[a-z0-9]{1,64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")
#: An error may quote a single word of the input. Anything else may be a prompt, and errors reach the logs.
_WORD = re.compile(r"[A-Za-z0-9._:/+@*\[\]-]{1,80}")
_DATA = b',"data":'
#: Bounds of the errors in one fact: number, total bytes, characters of a message. Further errors are only counted.
_MAX_ERRORS, _MAX_ERROR_BYTES, _MAX_MESSAGE = 100, 16 * untrusted_json.KIB, 500


class InvalidData(InvalidEvent):
    """The data does not match the event's type; `errors` has one entry per field."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = bounded(errors)
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in self.errors))


@dataclass(frozen=True)
class Event:
    """A CloudEvent. `data` is UTF-8 JSON; `extensions` are strings."""

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
        """The event's entry in the catalogue. Raises InvalidEvent for an unknown type or version."""
        try:
            return TYPES[self.type]
        except KeyError:
            raise InvalidEvent(f"type: {quoted(self.type)} is not one of this system's event types") from None

    def headers(self) -> dict[str, str]:
        """Return the binary-mode headers of a NATS message.

        The content type has two names, because readers differ in the one they use (CloudEvents NATS binding 1.0.2,
        3.1.1).
        """
        return {**self.http_headers(), "ce-datacontenttype": self.datacontenttype}

    def http_headers(self) -> dict[str, str]:
        """Return the binary-mode headers of an HTTP request."""
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
        """Return the event as one JSON object (CloudEvents JSON format)."""
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
        """Return the event as one line of JSON with `data` last, byte for byte as received (see `of_line`).

        Raises:
            ValueError: The data is not JSON.
        """
        head = {name: value for name, value in self.structured().items() if name != "data"}
        start = _compact(head)[:-1]
        if not self.data:
            return start + b"}"
        if b"\n" in self.data or b"\r" in self.data:
            return start + b',"data_base64":"' + base64.b64encode(self.data) + b'"}'
        return start + _DATA + self.data + b"}"

    def with_extensions(self, **extensions: str) -> Event:
        """Return a copy with further extensions."""
        return replace(self, extensions={**self.extensions, **extensions})


def of_line(line: bytes) -> Event:
    """Parse a line of `Event.line`; the data keeps its bytes.

    Raises:
        InvalidEvent: The line is not an event.
    """
    event = _structured(STRUCTURED, line)
    _, found, data = line.strip().partition(_DATA)
    # Quotes within an attribute are escaped, so the first `,"data":` is the member.
    return replace(event, data=data[:-1]) if found else event


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def timestamp(time: datetime) -> str:
    """Format a time as RFC 3339 in UTC with microseconds."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_event(
    type_: str, data: Model, *, source: str, time: datetime, cause: Event | None = None, id_: str | None = None
) -> Event:
    """Create an event about the execution or session named in `data`.

    `cause` sets the causation id, and the trace context if there is no active span.
    """
    entity = str(getattr(data, "execution_id", None) or getattr(data, "session_id", ""))
    extensions = {"correlationid": entity, "partitionkey": entity}
    if cause is not None:
        extensions["causationid"] = cause.id
    # The active span is the direct cause; without tracing, the context of `cause` is forwarded.
    extensions |= trace_context.active() or (trace_context.of(cause.extensions) if cause is not None else {})
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
    """Parse the event's data as the model of its type; data from callers must have the exact types of the schema.

    Raises:
        InvalidData: Fields are invalid; names each.
        InvalidEvent: The type is unknown.
    """
    spec = event.spec
    try:
        return spec.data.model_validate_json(
            event.data, extra="forbid" if spec.from_callers else "ignore", strict=spec.from_callers or None
        )
    except ValidationError as error:
        if (field := _lone_surrogate(event.data)) is not None:
            raise InvalidData([_surrogate_error(field)]) from None
        raise InvalidData(field_errors(error)) from None


def field_errors(error: ValidationError) -> list[FieldError]:
    """Convert pydantic's errors to field and message, without the value, which may be a secret."""
    return bounded(
        [
            FieldError(field=_path(e["loc"]), message=e["msg"])
            for e in error.errors(include_input=False, include_url=False, include_context=False)
        ]
    )


def errors_of(error: InvalidEvent) -> list[FieldError]:
    """Return the errors of an invalid event by field."""
    if isinstance(error, InvalidData):
        return error.errors
    field, colon, message = str(error).partition(": ")
    known = bool(colon) and _WORD.fullmatch(field) is not None
    return bounded([FieldError(field=field if known else "event", message=message if known else str(error))])


def bounded(errors: list[FieldError]) -> list[FieldError]:
    """Return as many errors as fit in a fact; the last entry has the number of further errors."""
    fitting: list[FieldError] = []
    size = 0
    for error in errors[:_MAX_ERRORS]:
        cut = error.model_copy(update={"message": error.message[:_MAX_MESSAGE]})
        size += len(cut.model_dump_json())
        if size > _MAX_ERROR_BYTES:
            break
        fitting.append(cut)
    if len(fitting) < len(errors):
        fitting.append(FieldError(field="data", message=f"{len(errors) - len(fitting)} more errors"))
    return fitting


def quoted(text: str) -> str:
    """Return `text` for an error message: quoted if it is one word, else its length."""
    return repr(text) if _WORD.fullmatch(text) else f"<{len(text)} characters>"


def _path(parts: Sequence[object]) -> str:
    # pydantic marks an error in a dict's key with a further part `[key]`.
    named = (str(part) for part in parts if part != "[key]")
    return ".".join(part if _WORD.fullmatch(part) else f"<{len(part)} characters>" for part in named) or "data"


def decode(headers: Mapping[str, str], body: bytes) -> Event:
    """Decode a CloudEvent from a NATS message or an HTTP request, binary or structured.

    A structured body has `Content-Type: application/cloudevents+json`, or no content type and no `ce-` header
    (CloudEvents NATS binding 1.0.2, 3.2). The data must be UTF-8 JSON within `ocf.events.untrusted_json.EVENT`.

    Raises:
        InvalidEvent: The message is not a CloudEvent, or an attribute is missing or malformed. The text names the
            attribute and never quotes the data.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    content_type = _media_type(lower.get("content-type", ""))
    if content_type.startswith("application/cloudevents-batch"):
        raise InvalidEvent("Content-Type: batches are not accepted; publish one event per message")
    if content_type.startswith("application/cloudevents"):
        return _structured(content_type, body)
    if "ce-specversion" in lower:
        return _binary(lower, content_type, body)
    if not content_type and not any(name.startswith("ce-") for name in lower) and body.lstrip()[:1] == b"{":
        return _structured(STRUCTURED, body)
    raise InvalidEvent(
        f"event: not a CloudEvent: neither a ce-specversion header (binary) nor Content-Type {STRUCTURED} (structured)"
    )


def _binary(headers: Mapping[str, str], content_type: str, body: bytes) -> Event:
    named = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
    _check_attributes(named, 3 * _MAX_ATTRIBUTE)  # before decoding: %41 is one character
    attributes = {}
    for name, value in named.items():
        try:
            attributes[name] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise InvalidEvent(f"{name}: percent-encoded bytes that are not UTF-8") from None
    _check_attributes(attributes, _MAX_ATTRIBUTE)
    if content_type:
        attributes["datacontenttype"] = content_type
    event = _event(attributes, body)
    if body:
        untrusted_json.parse_json(body, untrusted_json.EVENT, "data")
        _check_text(body, "data")
    return event


def _structured(content_type: str, body: bytes) -> Event:
    if content_type != STRUCTURED:
        raise InvalidEvent(f"Content-Type: {quoted(content_type)} is not supported; use {STRUCTURED}")
    raw = untrusted_json.parse_json(body, untrusted_json.EVENT, "event")
    if not isinstance(raw, dict):
        raise InvalidEvent("event: not a JSON object")
    _check_text(body, "event")
    data = b""
    if raw.get("data_base64") is not None:
        try:
            data = base64.b64decode(raw["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise InvalidEvent("data_base64: not base64") from None
        untrusted_json.parse_json(data, untrusted_json.EVENT, "data")
        _check_text(data, "data")
    elif "data" in raw:
        try:
            data = json.dumps(raw["data"], ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise InvalidEvent("data: a number is too large") from None
    named = {k: v for k, v in raw.items() if k not in ("data", "data_base64") and v is not None}
    _check_attributes(named, _MAX_ATTRIBUTE)
    return _event({k: _text(k, v) for k, v in named.items()}, data)


def _check_attributes(named: Mapping[str, object], longest: int) -> None:
    """Raise InvalidEvent unless the number, names and lengths of the attributes are allowed."""
    if len(named) > _MAX_ATTRIBUTES:
        raise InvalidEvent(f"attributes: {len(named)}; at most {_MAX_ATTRIBUTES}")
    for name, value in named.items():
        if not _NAME.fullmatch(name):
            raise InvalidEvent(f"attribute {quoted(name)}: its name is not 1 to 64 of a-z and 0-9")
        if isinstance(value, str):
            if len(value) > longest:
                raise InvalidEvent(f"{name}: longer than {_MAX_ATTRIBUTE} characters")
            if _has_surrogate(value):
                raise InvalidData([_surrogate_error(name)])


def _event(attributes: Mapping[str, str], data: bytes) -> Event:
    if attributes.get("specversion") != "1.0":
        raise InvalidEvent(f"specversion: {quoted(attributes.get('specversion', ''))} is not '1.0'")
    for name in ("id", "source", "type"):
        if not attributes.get(name):
            raise InvalidEvent(f"{name}: missing; CloudEvents requires it")
    content_type = _media_type(attributes.get("datacontenttype", JSON))
    if content_type != JSON and not (content_type.endswith("+json") and _MEDIA_TYPE.fullmatch(content_type)):
        raise InvalidEvent(f"datacontenttype: {quoted(content_type)} is not {JSON}")
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


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _time(value: str | None) -> datetime:
    if value is None:
        return datetime.now(UTC)
    try:
        parsed = datetime.fromisoformat(value)
        # Convert to UTC here: times on the first and last day of the calendar do not exist in every zone.
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidEvent(f"time: {quoted(value)} is not an RFC 3339 timestamp") from None


def _text(name: str, value: object) -> str:
    """Return an attribute of the JSON format as text. Core attributes must be strings; extensions need not."""
    if isinstance(value, str):
        return value
    if name not in _CORE:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int) and -(2**31) <= value < 2**31:
            return str(value)
    kinds = "a string" if name in _CORE else "a string, a 32-bit integer or a boolean"
    raise InvalidEvent(f"{name}: an attribute must be {kinds}")


#: The escapes of a whole surrogate pair, which is one character.
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _check_text(data: bytes, what: str) -> None:
    """Raise InvalidData, which names the field, for a lone surrogate: UTF-8 cannot encode it."""
    if (field := _lone_surrogate(data)) is not None:
        path = ".".join(part for part in (what if what != "data" else "", field) if part)
        raise InvalidData([_surrogate_error(path.removeprefix("event.data.") or what)])


def _surrogate_error(field: str) -> FieldError:
    return FieldError(field=field, message="contains half a surrogate pair: text that was cut within a character")


def _lone_surrogate(data: bytes) -> str | None:
    """Return the path of the first lone surrogate in the JSON `data`, or None."""
    if b"\\u" not in data or not _HALF.search(_PAIR.sub(b"", data.replace(b"\\\\", b"__"))):
        return None
    try:
        value = untrusted_json.parse_json(data, untrusted_json.EVENT)
    except InvalidEvent:
        return None  # another check rejects it
    return _surrogate_in(value, ()) or None


def _surrogate_in(value: object, path: tuple[object, ...]) -> str:
    """Return the path of the first text with a surrogate, or "". The depth of `value` is already bounded."""
    if isinstance(value, str):
        return _path(path) if _has_surrogate(value) else ""
    if isinstance(value, dict):
        for name, item in value.items():
            if _has_surrogate(name):
                return _path((*path, name))
            if found := _surrogate_in(item, (*path, name)):
                return found
    if isinstance(value, list):
        for index, item in enumerate(value):
            if found := _surrogate_in(item, (*path, index)):
                return found
    return ""


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _encode(value: str) -> str:
    return quote(value, safe=_SAFE)
