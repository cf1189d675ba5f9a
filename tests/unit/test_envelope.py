"""CloudEvents over NATS and HTTP: what is read, what is written, what is refused and how."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cloudevents.conversion import to_structured
from cloudevents.http import CloudEvent, from_http
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.command_payloads import Cancel
from ocf.events.envelope import Event, InvalidData, decode, new_event, of_line, parse
from ocf.events.errors import InvalidEvent

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
NOW = datetime(2026, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)


def cancel_event() -> Event:
    return new_event(
        "dev.ocf.task.cancel.v1", Cancel(execution_id=ID, project_id="default", why="ünlikely"), source="/t", time=NOW
    )


def test_binary_mode_round_trip() -> None:
    """What is written in binary mode reads back as the same event."""
    event = cancel_event()
    again = decode(event.headers(), event.data)
    assert again == event
    assert parse(again) == Cancel(execution_id=ID, project_id="default", why="ünlikely")


def test_binary_mode_is_read_by_the_sdk() -> None:
    """Any CloudEvents SDK reads our headers over HTTP."""
    event = cancel_event()
    read = from_http(event.headers(), event.data)
    assert (read["id"], read["type"], read["correlationid"]) == (event.id, event.type, ID)


def test_structured_mode_of_the_sdk_is_read() -> None:
    """A backend may publish what its SDK writes as structured JSON."""
    attributes = {"type": "dev.ocf.task.cancel.v1", "source": "/backend", "traceparent": "00-a-b-01"}
    headers, body = to_structured(CloudEvent(attributes, {"execution_id": ID, "project_id": "default"}))
    event = decode({"Content-Type": headers["content-type"]}, body)
    assert parse(event) == Cancel(execution_id=ID, project_id="default")
    assert event.extensions["traceparent"] == "00-a-b-01"


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable() and text.strip() == text))
def test_any_text_survives_a_header(text: str) -> None:
    """Header values are percent-encoded, so that ids and sources may hold anything printable."""
    event = Event(type="t", source=text, id=text, time=NOW, data=b"{}", extensions={"note": text})
    again = decode(event.headers(), b"{}")
    assert (again.source, again.id, again.extensions["note"]) == (text, text, text)
    assert all(ord(c) < 128 for value in event.headers().values() for c in value)


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({}, b"hello", "not a CloudEvent"),
        ({"ce-specversion": "1.0", "ce-source": "/a", "ce-type": "t"}, b"", "id: missing"),
        ({"ce-specversion": "0.3", "ce-id": "1", "ce-source": "/a", "ce-type": "t"}, b"", "specversion"),
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "t", "ce-time": "soon"}, b"", "time"),
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "t", "content-type": "text/plain"},
            b"",
            "datacontenttype",
        ),
        ({"Content-Type": "application/cloudevents+json"}, b"{", "not valid JSON"),
        ({"Content-Type": "application/cloudevents+json"}, b"[]", "not a JSON object"),
        ({"Content-Type": "application/cloudevents-batch+json"}, b"[]", "batches"),
        ({"Content-Type": "application/cloudevents+xml"}, b"", "not supported"),
    ],
)
def test_malformed_event_is_refused_with_the_reason(headers: dict[str, str], body: bytes, said: str) -> None:
    """Bad input is answered by name, never by a crash."""
    with pytest.raises(InvalidEvent, match=said):
        decode(headers, body)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5), st.binary(max_size=200))
def test_garbage_never_crashes(headers: dict[str, str], body: bytes) -> None:
    """Whatever arrives is an event or an InvalidEvent."""
    for extra in ({}, {"content-type": "application/cloudevents+json"}, {"ce-specversion": "1.0"}):
        try:
            decode({**headers, **extra}, body)
        except InvalidEvent:
            continue


def test_every_wrong_field_is_named_and_no_value_is_told() -> None:
    """An unknown field, a bad id and a bad project are named; their values, which may be secret, are not."""
    data = {"execution_id": "hunter2", "project_id": "Bad Project", "hello": "hunter2"}
    event = Event(type="dev.ocf.task.cancel.v1", source="/t", id="1", time=NOW, data=json.dumps(data).encode())
    with pytest.raises(InvalidData) as caught:
        parse(event)
    assert {error.field for error in caught.value.errors} == {"execution_id", "project_id", "hello"}
    assert "hunter2" not in str(caught.value)


def test_an_unknown_type_is_named() -> None:
    """A type or version we do not know is refused by name."""
    event = Event(type="dev.ocf.task.submit.v9", source="/t", id="1", time=NOW, data=b"{}")
    with pytest.raises(InvalidEvent, match=r"submit\.v9"):
        parse(event)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}',
        b'{ "a" : 1.50, "b": "x,\\"data\\":y" }',
        '{"ä": "€ \\u20ac"}'.encode(),
        b'{\n  "pretty": true\n}',
        b'{"data":{"data":2}}',
        b"",
    ],
)
def test_a_line_gives_the_data_back_byte_for_byte(data: bytes) -> None:
    """However it was spelled: replays post what was published, not what it means."""
    event = Event("dev.ocf.task.cancel.v1", "/t", "1", datetime(2026, 1, 1, tzinfo=UTC), data, subject='s,"data":x')
    line = event.with_extensions(partitionkey="k").line()
    assert b"\n" not in line
    assert of_line(line + b"\n") == event.with_extensions(partitionkey="k")
