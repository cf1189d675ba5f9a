"""A provider that says the key back in pieces, in every wire form: the agent gets all of it but the key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocf.events.redaction import Redactor
from ocf.functions.execute.model_proxy.stream_redaction import StreamRedaction

KEY = "sk-real-0123456789-abcdefghijkl"


def chat(text: str | None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {} if text is None else {"content": text}, **more}]}


def call(text: str) -> dict[str, Any]:
    made = {"index": 1, "function": {"arguments": text}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [made]}}]}


def messages(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": text}}


def responses(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "i", "content_index": 0, "delta": text}


WIRES = {
    "chat": (chat, lambda e: e["choices"][0]["delta"].get("content", "")),
    "call": (call, lambda e: e["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]),
    "messages": (messages, lambda e: e["delta"]["text"]),
    "responses": (responses, lambda e: e["delta"]),
}


def sent(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)


def heard(data: bytes) -> list[dict[str, Any]]:
    found = []
    for event in data.split(b"\n\n")[:-1]:
        name, line = event.split(b"\n")
        assert name == b"event: x"
        found.append(json.loads(line[5:]))
    return found


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("size", [1, 2, 5, 16, 30])
@pytest.mark.parametrize("together", [True, False])
def test_a_key_in_pieces_is_masked(wire: str, size: int, together: bool) -> None:
    """However it is cut, and whether the events come one by one or all at once."""
    make, text = WIRES[wire]
    said = f"the key is {KEY}, sk- is how it begins"
    events = [make(said[at : at + size]) for at in range(0, len(said), size)]
    veil = StreamRedaction(Redactor([KEY]))
    got = veil.feed(sent(*events)) if together else b"".join(veil.feed(sent(event)) for event in events)
    whole = "".join(map(text, heard(got)))
    assert KEY not in whole
    assert KEY.encode() not in got
    assert "the key is " in whole
    assert "[redacted], sk- is how it begins" in whole


def test_buffered_bytes_come_before_the_end() -> None:
    """Text that only begins like a key is there in full, before the event that ends it."""
    veil = StreamRedaction(Redactor([KEY]))
    first = heard(veil.feed(sent(chat("it begins with sk-real-0"))))
    assert first == [chat("it begins with ")]
    end = chat(None, finish_reason="stop")
    rest = heard(veil.feed(sent(end)))
    assert rest == [chat("sk-real-0"), end]
    assert veil.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


def test_a_ping_in_between_changes_nothing() -> None:
    """The two halves around it are still one key."""
    veil, ping = StreamRedaction(Redactor([KEY])), b'event: ping\ndata: {"type": "ping"}\n\n'
    got = [veil.feed(data) for data in (sent(messages(KEY[:15])), ping, sent(messages(KEY[15:])))]
    assert heard(got[0] + got[2]) == [messages(""), messages("[redacted]")]
    assert got[1] == ping


@pytest.mark.parametrize(
    "data",
    [
        b": keep-alive\n\n",
        b"data: [DONE]\n\n",
        b'data: {"delta": broken\n\n',
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"role": "assistant",  "content": "hello"}}]}\n\n',
        b'data: {"choices": "delta", "delta": [1]}\n\n',
        b"half an eve",
        b"",
    ],
)
def test_text_without_a_secret_is_unchanged(data: bytes) -> None:
    """Byte by byte, also what is no event that anybody knows."""
    assert StreamRedaction(Redactor([KEY])).feed(data) == data
