"""OpenCode's HTTP API as the client speaks it, against a transport that plays the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ocf.events import untrusted_json
from ocf.events.untrusted_json import JsonLimit
from ocf.functions.execute.agent import opencode_api
from ocf.functions.execute.agent.opencode_api import CONNECTED, RESYNC, OpenCode, OpenCodeError, Prompt, StreamLostError

Handler = Callable[[httpx2.Request], httpx2.Response]


def client(handler: Handler) -> OpenCode:
    return OpenCode("http://127.0.0.1:1", Path("/workspace"), "secret", httpx2.MockTransport(lambda r: raw(handler(r))))


class Bytes(httpx2.AsyncByteStream):
    """One piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def raw(answer: httpx2.Response) -> httpx2.Response:
    """The answer as it comes from a socket: nobody has read it yet."""
    if not answer.is_stream_consumed:
        return answer
    return httpx2.Response(answer.status_code, headers=answer.headers, stream=Bytes(answer.content))


def at_most(monkeypatch: pytest.MonkeyPatch, name: str, **more: int) -> None:
    """A smaller limit."""
    monkeypatch.setattr(untrusted_json, name, JsonLimit(**{"bytes": 10_000, "depth": 100, "values": 1000, **more}))


class Broken(httpx2.AsyncByteStream):
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
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"id": "ses_1"})

    one = client(handler)
    assert await one.create_session("t", [{"permission": "*", "pattern": "*", "action": "allow"}]) == "ses_1"
    assert seen[0].url.params["directory"] == "/workspace"
    assert (
        httpx2.BasicAuth("opencode", "secret").auth_flow(seen[0]).__next__().headers["authorization"]
        == (seen[0].headers["authorization"])
    )
    assert json.loads(seen[0].content)["permission"][0]["action"] == "allow"
    await one.close()


class Endless(httpx2.AsyncByteStream):
    """Bytes for ever; `read` counts them."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.read += 1000
            yield b"x" * 1000


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is in the agent's hands: neither a call nor an event of its stream may fill our memory."""
    at_most(monkeypatch, "AGENT_MESSAGE")
    monkeypatch.setattr(untrusted_json, "AGENT_ERROR", 2_000)
    streams: list[Endless] = []
    statuses = iter((200, 200, 500))

    def handler(request: httpx2.Request) -> httpx2.Response:
        streams.append(Endless())
        return httpx2.Response(next(statuses), stream=streams[-1])

    one = client(handler)
    with pytest.raises(OpenCodeError, match="/session/ses_1/todo answered more than"):
        await one.todo("ses_1")
    with pytest.raises(OpenCodeError, match="sent an event of more than"):
        await anext(one._stream())
    with pytest.raises(OpenCodeError, match=r"answered 500: x{300}$"):
        await one.todo("ses_1")
    assert [stream.read for stream in streams] == [11_000, 11_000, 3_000]
    await one.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-gzip, gzip"])
async def test_a_compressed_answer_is_refused_unread(encoding: str) -> None:
    """32 KB of zstd would become 2 GiB. OpenCode is asked for `identity`; whoever compresses is not OpenCode."""
    streams: list[Endless] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept-encoding"] == "identity"
        streams.append(Endless())
        return httpx2.Response(200, headers={"content-encoding": encoding}, stream=streams[-1])

    one = client(handler)
    with pytest.raises(OpenCodeError, match="content encoding"):
        await one.todo("ses_1")
    with pytest.raises(OpenCodeError, match="content encoding"):
        await anext(one._stream())
    assert [stream.read for stream in streams] == [0, 0]


async def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole of it never does."""
    monkeypatch.setattr(opencode_api, "_TOTAL_FACTOR", 0.001)

    class Drips(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0)

    with pytest.raises(OpenCodeError, match="no whole answer within"):
        await client(lambda _: httpx2.Response(200, stream=Drips())).todo("ses_1")


@pytest.mark.parametrize(
    "said",
    [b"[" * 200_000, b"[" + b"[]," * 600_000 + b"0]", b"<html>", b"\xff", b'"x"', b"[1]", b"NaN", b"9" * 5000],
    ids=["deep", "wide", "html", "bytes", "text", "numbers", "nan", "long number"],
)
async def test_answers_that_are_none_are_errors_of_opencode(said: bytes) -> None:
    """Whatever stands in an answer or an event: it is OpenCode's error, and no other exception."""
    one = client(lambda _: httpx2.Response(200, content=said))
    for call in (one.todo("ses_1"), one.busy("ses_1"), one.version(), one.create_session("t", [])):
        with pytest.raises(OpenCodeError):
            await call
    with pytest.raises(OpenCodeError):
        await one.resync("ses_1")
    streamed = client(lambda _: httpx2.Response(200, content=b"data: " + said + b"\n\n"))
    with pytest.raises(OpenCodeError):
        await anext(streamed._stream())


@pytest.mark.parametrize("id_", ["../../global", "a b", "", "x" * 200, 7, None, "\ud83d"])
async def test_an_id_that_is_none_never_becomes_part_of_a_path(id_: object) -> None:
    """Sessions are named by whoever answers."""
    with pytest.raises(OpenCodeError, match="an invalid id"):
        await client(lambda _: httpx2.Response(200, content=json.dumps([{"id": id_}])))._session_tree("ses_1")


async def test_subagents_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session names another below it; one that names itself is visited once."""
    monkeypatch.setattr(untrusted_json, "AGENT_SESSIONS", 20)
    asked = 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(200, json=[{"id": f"ses_{asked}"}, {"id": "ses_1"}])

    with pytest.raises(OpenCodeError, match="more than 20 subagents"):
        await client(handler)._session_tree("ses_0")
    assert asked <= 20


def conversation(sizes: list[int]) -> Handler:
    """A session whose messages have these sizes, served in pages as OpenCode does; every third is a user's."""
    stored = [
        {"info": {"id": f"msg_{n:04}", "role": "assistant" if n % 3 else "user"}, "parts": [{"text": "x" * size}]}
        for n, size in enumerate(sizes)
    ]

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/children"):
            return httpx2.Response(200, json=[])
        if not request.url.path.endswith("/message"):
            return httpx2.Response(200, json={"id": "ses_1", "title": "t"})
        end = int(request.url.params.get("before", len(stored)))
        start = max(0, end - int(request.url.params["limit"]))
        headers = {"x-next-cursor": str(start)} if start else {}
        return httpx2.Response(200, json=stored[start:end], headers=headers)

    return handler


def numbers(messages: list[Any]) -> list[int]:
    return [int(message["info"]["id"][4:]) for message in messages]


async def test_a_conversation_is_read_in_pages_and_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """More messages than one page has, more bytes than one answer may have: all of them, oldest first."""
    at_most(monkeypatch, "AGENT_MESSAGE", bytes=50_000)
    one = client(conversation([1000] * 200))
    assert numbers(await one.messages("ses_1")) == list(range(200))
    whole = await one.export("ses_1")
    assert numbers(whole["messages"]) == list(range(200))
    state, same = await one.final_state("ses_1")
    assert same == whole
    assert state["properties"]["messages"] == whole["messages"]


async def test_a_session_whose_entry_cannot_be_read_has_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over; only the stored conversation can suffer."""
    served = conversation([10, 10])

    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500) if request.url.path.endswith("/session/ses_1") else served(request)

    state, whole = await client(handler).final_state("ses_1")
    assert (numbers(state["properties"]["messages"]), whole) == ([0, 1], None)


async def test_a_message_that_nobody_can_read_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out; before, one such answer failed the run after all its work."""
    at_most(monkeypatch, "AGENT_MESSAGE")
    one = client(conversation([100] * 70 + [20_000] + [100] * 5))
    assert numbers(await one.messages("ses_1")) == [n for n in range(76) if n != 70]


async def test_of_a_conversation_that_is_too_long_the_newest_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported begins with what a user said, so that it can go on from there."""
    at_most(monkeypatch, "AGENT_MESSAGE", bytes=50_000, values=10_000)
    at_most(monkeypatch, "AGENT_CONVERSATION", bytes=30_000, values=10_000)
    one = client(conversation([1000] * 200))
    newest = numbers(await one.messages("ses_1"))
    assert newest == list(range(newest[0], 200))
    assert 20 <= len(newest) <= 30
    kept = numbers((await one.export("ses_1"))["messages"])
    assert kept[0] % 3 == 0
    assert kept == list(range(kept[0], 200))
    assert len(kept) >= len(newest) - 4
    state, whole = await one.final_state("ses_1")
    assert (numbers(state["properties"]["messages"]), whole) == (newest, None)


async def test_a_last_turn_that_is_too_long_alone_cannot_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, so that the session goes on from the conversation before."""
    at_most(monkeypatch, "AGENT_MESSAGE", bytes=50_000)
    at_most(monkeypatch, "AGENT_CONVERSATION", bytes=5_000)
    with pytest.raises(OpenCodeError, match="larger than a stored conversation"):
        await client(conversation([100, 100, 100, 1000, 1000, 4000])).export("ses_1")


async def test_pages_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always names one more page."""
    monkeypatch.setattr(untrusted_json, "AGENT_PAGES", 10)
    asked = 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(200, json=[{"info": {}}], headers={"x-next-cursor": "again"})

    assert len(await client(handler).messages("ses_1")) == 10
    assert asked <= 13


async def test_events_come_whole_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines end where the server ends them, not where packets do, nor at a separator inside a text."""
    at_most(monkeypatch, "AGENT_MESSAGE")
    sent = [event("a", text="\u2028 ü \x85"), event("b", text="y" * 9000), event("c", text="z" * 9000)]
    data = b"".join(f"data: {json.dumps(one, ensure_ascii=False)}\r\n\r\n".encode() for one in sent)

    class Cut(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, len(data), 7):
                yield data[start : start + 7]

    one = client(lambda request: httpx2.Response(200, stream=Cut()))
    assert [found async for found in one._stream()] == sent
    await one.close()


async def test_a_prompt_has_its_own_model_and_system_prompt() -> None:
    """Both are given per prompt, so one server serves any of its models."""
    sent: list[dict[str, Any]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(204)

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
    one = client(lambda _: httpx2.Response(status, text="because"))
    with pytest.raises(OpenCodeError, match=f"GET /session/ses_1/message answered {status}: because"):
        await one.messages("ses_1")


async def test_no_answer_is_an_error() -> None:
    """A time-out of the transport becomes ours."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("too slow", request=request)

    with pytest.raises(OpenCodeError, match="GET /global/health: too slow"):
        await client(handler).version()


async def test_an_answer_to_what_nobody_asked_is_false() -> None:
    """404 to a reply means that nothing waits under that id."""
    one = client(lambda _: httpx2.Response(404, json={}))
    assert not await one.reply_permission("per_1", "once")
    assert not await one.reply_question("que_1", [["blue"]])


def server(streams: Iterator[httpx2.Response]) -> Handler:
    """Streams in turn; one stored message; a subagent; nothing waits."""

    def handler(request: httpx2.Request) -> httpx2.Response:
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
        return httpx2.Response(200, json=answers[request.url.path])

    return handler


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencode_api, "_RECONNECT_DELAYS", (0.0,) * 5)


async def test_a_broken_stream_is_opened_again_and_followed_by_what_is_stored() -> None:
    """After each reconnect comes a RESYNC with the messages of the session and of its subagents, and what waits."""
    broken = httpx2.ReadError("reset")
    streams = iter(
        [
            httpx2.Response(200, stream=Broken([event(CONNECTED), event("a")], broken)),
            httpx2.Response(503),
            httpx2.Response(200, stream=Broken([event(CONNECTED), event("b")])),
            httpx2.Response(200, stream=Broken([event(CONNECTED), event("c")])),
        ]
    )
    kinds, states = [], []
    async for one in client(server(streams)).events(lambda: "ses_1"):
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
    streams = iter([httpx2.Response(200, stream=Broken([event(CONNECTED)])), *(httpx2.Response(503) for _ in range(5))])
    events = client(server(streams)).events(lambda: "ses_1")
    assert (await anext(events))["type"] == CONNECTED
    with pytest.raises(StreamLostError, match="GET /event answered 503"):
        await anext(events)
