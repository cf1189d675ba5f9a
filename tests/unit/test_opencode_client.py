"""OpenCode's HTTP API as the client speaks it, against a transport that plays the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.execute import opencode
from functions.execute.opencode import CONNECTED, RESYNC, OpenCode, OpenCodeError, Prompt, StreamLostError

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> OpenCode:
    return OpenCode("http://127.0.0.1:1", Path("/workspace"), "secret", httpx.MockTransport(handler))


class Broken(httpx.AsyncByteStream):
    """Some events, then the connection breaks (or ends)."""

    def __init__(self, events: list[dict[str, Any]], error: Exception | None = None) -> None:
        self._events, self._error = events, error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self._events:
            yield f"data: {json.dumps(event)}\n\n".encode()
        if self._error:
            raise self._error


def event(kind: str, **properties: Any) -> dict[str, Any]:
    return {"type": kind, "properties": properties}


async def test_every_call_names_the_directory_and_shows_the_password() -> None:
    """The directory is in the query, the password in basic auth."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"id": "ses_1"})

    one = client(handler)
    assert await one.create_session("t", [{"permission": "*", "pattern": "*", "action": "allow"}]) == "ses_1"
    assert seen[0].url.params["directory"] == "/workspace"
    assert (
        httpx.BasicAuth("opencode", "secret").auth_flow(seen[0]).__next__().headers["authorization"]
        == (seen[0].headers["authorization"])
    )
    assert json.loads(seen[0].content)["permission"][0]["action"] == "allow"
    await one.close()


class Endless(httpx.AsyncByteStream):
    """Bytes for ever; `read` counts them."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.read += 1000
            yield b"x" * 1000


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is in the agent's hands: neither a call nor an event of its stream may fill our memory."""
    monkeypatch.setattr(opencode, "MAX_ANSWER", 10_000)
    streams: list[Endless] = []

    def handler(request: httpx.Request) -> httpx.Response:
        streams.append(Endless())
        return httpx.Response(200, stream=streams[-1])

    one = client(handler)
    with pytest.raises(OpenCodeError, match="/session/ses_1/message answered more than"):
        await one.messages("ses_1")
    with pytest.raises(OpenCodeError, match="sent an event of more than"):
        await anext(one._stream())
    assert [stream.read for stream in streams] == [11_000, 11_000]
    await one.close()


async def test_events_come_whole_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines end where the server ends them, not where packets do, nor at a separator inside a text."""
    monkeypatch.setattr(opencode, "MAX_ANSWER", 10_000)
    sent = [event("a", text="\u2028 ü \x85"), event("b", text="y" * 9000), event("c", text="z" * 9000)]
    raw = b"".join(f"data: {json.dumps(one, ensure_ascii=False)}\r\n\r\n".encode() for one in sent)

    class Cut(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, len(raw), 7):
                yield raw[start : start + 7]

    one = client(lambda request: httpx.Response(200, stream=Cut()))
    assert [found async for found in one._stream()] == sent
    await one.close()


async def test_a_prompt_has_its_own_model_and_system_prompt() -> None:
    """Both are given per prompt, so one server serves any of its models."""
    sent: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(204)

    await client(handler).prompt("ses_1", Prompt("do it", "ocf-openai", "m1", system="Be brief."))
    assert sent == [
        {
            "model": {"providerID": "ocf-openai", "modelID": "m1"},
            "parts": [{"type": "text", "text": "do it"}],
            "system": "Be brief.",
        }
    ]


@pytest.mark.parametrize("status", [400, 500])
async def test_refusals_are_errors_that_say_where(status: int) -> None:
    """Method, path, status and the body's start are in the message."""
    one = client(lambda _: httpx.Response(status, text="because"))
    with pytest.raises(OpenCodeError, match=f"GET /session/ses_1/message answered {status}: because"):
        await one.messages("ses_1")


async def test_no_answer_is_an_error() -> None:
    """A time-out of the transport becomes ours."""

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with pytest.raises(OpenCodeError, match="GET /global/health: too slow"):
        await client(handler).version()


async def test_an_answer_to_what_nobody_asked_is_false() -> None:
    """404 to a reply means that nothing waits under that id."""
    one = client(lambda _: httpx.Response(404, json={}))
    assert not await one.reply_permission("per_1", "once")
    assert not await one.reply_question("que_1", [["blue"]])


def server(streams: Iterator[httpx.Response]) -> Handler:
    """Streams in turn; one stored message; a subagent; nothing waits."""

    def handler(request: httpx.Request) -> httpx.Response:
        answers: dict[str, Any] = {
            "/session/status": {"ses_1": {"type": "busy"}},
            "/session/ses_1/children": [{"id": "ses_2"}],
            "/session/ses_2/children": [],
            "/session/ses_1/message": [{"info": {"id": "msg_1"}, "parts": []}],
            "/session/ses_2/message": [{"info": {"id": "msg_2"}, "parts": []}],
            "/permission": [{"id": "per_1", "sessionID": "ses_2"}, {"id": "per_x", "sessionID": "ses_x"}],
            "/question": [],
        }
        if request.url.path == "/event":
            return next(streams)
        return httpx.Response(200, json=answers[request.url.path])

    return handler


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencode, "_RECONNECT_DELAYS", (0.0,) * 5)


async def test_a_broken_stream_is_opened_again_and_followed_by_what_is_stored() -> None:
    """After each reconnect comes a RESYNC with the messages of the session and of its subagents, and what waits."""
    broken = httpx.ReadError("reset")
    streams = iter(
        [
            httpx.Response(200, stream=Broken([event(CONNECTED), event("a")], broken)),
            httpx.Response(503),
            httpx.Response(200, stream=Broken([event(CONNECTED), event("b")])),
            httpx.Response(200, stream=Broken([event(CONNECTED), event("c")])),
        ]
    )
    kinds, states = [], []
    async for one in client(server(streams)).events("ses_1"):
        kinds.append(one["type"])
        states += [one["properties"]] if one["type"] == RESYNC else []
        if one["type"] == "c":
            break
    assert kinds == [CONNECTED, "a", RESYNC, "b", RESYNC, "c"]
    assert states[0] == {
        "sessions": ["ses_1", "ses_2"],
        "messages": [{"info": {"id": "msg_1"}, "parts": []}, {"info": {"id": "msg_2"}, "parts": []}],
        "busy": True,
        "permissions": [{"id": "per_1", "sessionID": "ses_2"}],
        "questions": [],
    }


async def test_a_stream_that_stays_closed_is_given_up() -> None:
    """After five tries in a row the loss is said, with the last reason."""
    streams = iter([httpx.Response(200, stream=Broken([event(CONNECTED)])), *(httpx.Response(503) for _ in range(5))])
    events = client(server(streams)).events("ses_1")
    assert (await anext(events))["type"] == CONNECTED
    with pytest.raises(StreamLostError, match="GET /event answered 503"):
        await anext(events)
