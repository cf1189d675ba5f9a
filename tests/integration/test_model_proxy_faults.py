"""The model broker and a provider that misbehaves: what the agent sees, what is counted, what ends the execution."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx2
import pytest
import structlog
import zstandard
from pydantic import SecretStr

from ocf.events import untrusted_json as bounds
from ocf.events.command_payloads import Limits
from ocf.events.lifecycle import Reason
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import Call, Hooks, ModelProxy, RetryPolicy, Upstream
from ocf.functions.execute.model_proxy.usage_meter import UsageMeter
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.prices import Prices
from tests.support.faulty_model import (
    CHUNKED,
    Act,
    Exchange,
    FaultyModel,
    chat,
    cut,
    delta,
    endless,
    events,
    faulty_model,
    hang_up,
    silent,
    slow,
    status,
    whole,
)

KEY = "sk-real-0123456789-abcdefghijkl"
QUICK = RetryPolicy(tries=3, base=0.01, cap=0.02, patience=1.0)
ASK: dict[str, Any] = {"model": "x", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


class Rig:
    """A model proxy in front of a faulty provider, and a client that holds the token."""

    def __init__(self, model_proxy: ModelProxy, model: FaultyModel, client: httpx2.AsyncClient) -> None:
        self.model_proxy, self.model, self.client = model_proxy, model, client
        self.calls: list[Call] = []
        self.activity = 0
        self.failures: list[object] = []
        self.packed = asyncio.Event()
        self.packed.set()

    async def wait(self) -> None:
        await self.packed.wait()

    async def ask(self, path: str = "/chat/completions", **fields: Any) -> httpx2.Response:
        return await self.client.post(path, json={**ASK, **fields})


Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Build rigs: `await make(act, ..., limits=..., kind=..., **target)`."""
    async with AsyncExitStack() as stack:

        async def build(*script: Act, limits: Limits | None = None, **wanted: Any) -> Rig:
            model = await stack.enter_async_context(faulty_model(*script))
            upstream = Upstream(SystemClock(), retry=QUICK, read_timeout=wanted.pop("read_timeout", 5.0))
            stack.push_async_callback(upstream.close)
            model_proxy = await ModelProxy(upstream, SystemClock()).start()
            stack.push_async_callback(model_proxy.close)
            headers = {"authorization": f"Bearer {model_proxy.token}"}
            client = httpx2.AsyncClient(base_url=model_proxy.base_url, headers=headers, timeout=10)
            await stack.enter_async_context(client)
            rig = Rig(model_proxy, model, client)

            def active() -> None:
                rig.activity += 1

            hooks = Hooks(active, on_call_end=rig.calls.append, on_failure=rig.failures.append, before_answer=rig.wait)
            fields = {"provider": "local", "model": "m", "kind": "openai", "base_url": model.base_url}
            target = ModelTarget(**{**fields, "api_key": SecretStr(KEY), **wanted})
            model_proxy.assign(target, limits or Limits(), hooks)
            return rig

        yield build


def said(response: httpx2.Response) -> str:
    """The text of a streamed chat completion."""
    lines = [json.loads(x[6:]) for x in response.text.splitlines() if x.startswith("data: {")]
    return "".join(c["delta"].get("content") or "" for line in lines for c in line["choices"])


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until `condition` holds."""
    while not condition():
        await asyncio.sleep(0)


async def test_a_call_goes_out_with_the_real_key_and_comes_back_counted(make: Make) -> None:
    """The provider sees the key and never the token; the agent sees the answer; tokens and times are noted."""
    rig = await make(chat("hel", "lo", prompt=7))
    response = await rig.ask()
    assert said(response) == "hello"
    sent = rig.model.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert rig.model_proxy.token not in str(sent.headers)
    usage = rig.model_proxy.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 7, 2)
    (call,) = rig.calls
    assert (call.outcome, call.status, call.tries, call.model, call.estimated) == ("ok", 200, 1, "m", False)
    assert call.first_byte_seconds is not None
    assert rig.activity >= 3


async def test_no_answer_reaches_the_agent_before_its_files_are_packed(make: Make) -> None:
    """The model is asked meanwhile; a stream, an error and the list of models are held back; a cut ends the wait."""
    rig = await make(chat("hel", "lo"), status(400), chat("never"))
    rig.packed.clear()
    asking = [asyncio.create_task(rig.ask())]
    await until(lambda: len(rig.model.requests) == 1)
    asking += [asyncio.create_task(rig.ask())]
    await until(lambda: len(rig.model.requests) == 2)
    asking += [asyncio.create_task(rig.client.get("/models"))]
    done, _ = await asyncio.wait(asking, timeout=0.2)
    assert not done
    rig.packed.set()
    stream, error, models = await asyncio.gather(*asking)
    assert (said(stream), error.status_code, models.status_code) == ("hello", 400, 200)
    rig.packed.clear()
    cut = asyncio.create_task(rig.ask())
    await until(lambda: len(rig.model.requests) == 3)
    await rig.model_proxy.close()
    with pytest.raises(httpx2.HTTPError):
        await cut


async def test_usage_that_only_the_broker_asked_for_is_hidden(make: Make) -> None:
    """A client that did not ask for usage gets none, one that did gets it."""
    rig = await make(chat("a"))
    assert '"prompt_tokens"' not in (await rig.ask()).text
    assert '"prompt_tokens"' in (await rig.ask(stream_options={"include_usage": True})).text
    assert rig.model_proxy.usage.input_tokens == 20


async def test_the_callers_wishes_reach_the_provider(make: Make) -> None:
    """model_config wins over what the agent sends: model and version, temperature, max_tokens, tools."""
    rig = await make(chat("a"), model_version="2025", temperature=0.25, max_tokens=77, enabled_tools=("read",))
    tools = [{"type": "function", "function": {"name": name}} for name in ("bash", "read")]
    await rig.ask(temperature=1, max_tokens=32_000, tools=tools)
    body = rig.model.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m-2025", 0.25, 77)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["read"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}])
async def test_a_wrong_token_gets_nothing(make: Make, headers: dict[str, str]) -> None:
    """Another execution's agent, or anybody on the machine, is refused before the body is read."""
    rig = await make(chat("a"))
    async with httpx2.AsyncClient() as stranger:
        response = await stranger.post(rig.model_proxy.base_url + "/chat/completions", json=ASK, headers=headers)
    assert response.status_code == 401
    assert not rig.model.requests


async def test_only_model_calls_are_forwarded(make: Make) -> None:
    """Files, fine-tuning, account pages: none of the provider's other paths can be reached with its key."""
    rig = await make(chat("a"))
    assert (await rig.client.get("/files")).status_code == 404
    assert (await rig.client.post("/chat/../files", json={})).status_code == 404
    assert (await rig.client.get("/chat/completions")).status_code == 405
    assert (await rig.client.post("/messages", json=ASK)).status_code == 400
    assert (await rig.client.post("/chat/completions", content=b"nonsense")).status_code == 400
    assert (await rig.client.get("/models")).json()["data"][0]["id"] == "m"
    assert not rig.model.requests


async def test_429_is_tried_again_after_the_time_it_asks_for(make: Make) -> None:
    """Retry-After is obeyed; the agent notices only the wait."""
    rig = await make(status(429, "{}", "retry-after: 0.2"), chat("ok"))
    start = time.monotonic()
    assert said(await rig.ask()) == "ok"
    assert time.monotonic() - start >= 0.2
    assert rig.calls[0].tries == 2
    assert rig.model_proxy.usage.requests == 1
    assert rig.model_proxy.failure is None


@pytest.mark.parametrize("act", [status(500), status(529), status(503), hang_up])
async def test_a_provider_that_stays_down_is_a_model_error(make: Make, act: Act) -> None:
    """After the last try the execution fails with model_error, and no further call is made."""
    rig = await make(act)
    response = await rig.ask()
    assert response.status_code == 403
    assert len(rig.model.requests) == QUICK.tries
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR
    assert "gave up after 3 tries" in rig.model_proxy.failure.message
    assert (await rig.ask()).status_code == 403
    assert len(rig.model.requests) == QUICK.tries
    assert rig.failures == [rig.model_proxy.failure]


async def test_a_wait_that_is_too_long_is_a_model_error_at_once(make: Make) -> None:
    """A provider that asks for an hour has failed; nobody waits for it."""
    rig = await make(status(429, "{}", "retry-after: 3600"))
    await rig.ask()
    assert len(rig.model.requests) == 1
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_key_is_model_auth_and_shown_to_nobody(make: Make, code: int) -> None:
    """One try, model_auth, and the provider's words (which may hold the key) stay here."""
    rig = await make(status(code, json.dumps({"error": {"message": f"bad key {KEY}"}})))
    with structlog.testing.capture_logs() as logs:
        response = await rig.ask()
    assert len(rig.model.requests) == 1
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_AUTH
    for text in (
        response.text,
        str(response.headers),
        rig.model_proxy.failure.message,
        str(logs),
        repr(rig.model_proxy),
    ):
        assert KEY not in text
        assert rig.model_proxy.token not in text


@pytest.mark.parametrize("key", ["sk-two\nlines-0123456789", "sk-schlüssel-0123456789"])
async def test_a_key_that_no_header_can_carry_is_model_auth(make: Make, key: str) -> None:
    """Nothing is sent, and the library's error, which quotes the header, goes nowhere."""
    rig = await make(chat("a"), api_key=SecretStr(key))
    response = await rig.ask()
    assert response.status_code == 403
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_AUTH
    assert "0123456789" not in rig.model_proxy.failure.message + response.text
    assert not rig.model.requests


async def test_a_mistake_of_the_brokers_own_ends_the_execution(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent would try for ever; the run is told instead."""
    rig = await make(chat("a"))
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr("ocf.functions.execute.model_proxy.proxy.requests.prepare", lambda *_: 1 / 0)
    with pytest.raises(httpx2.HTTPError):
        await rig.ask()
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.message == "the model proxy failed"
    assert rig.model_proxy.in_flight == 0


async def test_the_key_is_cut_out_of_whatever_a_provider_echoes(make: Make) -> None:
    """Errors that are the agent's to read, and answers themselves, pass without the key."""

    async def echo(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        await exchange.event(delta(exchange.headers["authorization"]))
        await exchange.event("[DONE]")
        await exchange.end()

    rig = await make(status(400, json.dumps({"error": {"message": f"too long, {KEY}"}})))
    refused = await rig.ask()
    assert refused.status_code == 400
    assert "too long" in refused.text
    assert KEY not in refused.text
    assert rig.model_proxy.failure is None
    assert rig.calls[0].outcome == "passed"
    rig = await make(echo)
    answer = await rig.ask()
    assert KEY not in answer.text
    assert "[redacted]" in answer.text


async def test_a_stream_that_breaks_off_is_never_taken_for_complete(make: Make) -> None:
    """The agent's connection breaks as well; what came is counted by estimate; three in a row are a model_error."""
    rig = await make(cut("half", " an"))
    for number in range(1, 4):
        with pytest.raises(httpx2.HTTPError):
            await rig.ask()
        assert rig.calls[-1].outcome == "cut"
        assert rig.calls[-1].estimated
        assert (rig.model_proxy.failure is not None) is (number == 3)
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR
    assert rig.model_proxy.usage.output_tokens == 6


async def test_errors_inside_streams_end_the_execution_too(make: Make) -> None:
    """A provider may say "overloaded" after a 200; the agent reads it and may try again, but not for ever."""

    async def overloaded(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        await exchange.event({"error": {"message": "overloaded"}})
        await exchange.end()

    rig = await make(overloaded)
    for _ in range(3):
        assert "overloaded" in (await rig.ask()).text
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR


async def test_a_compressed_answer_is_unpacked(make: Make) -> None:
    """A provider that compresses although it was asked not to is still understood."""

    async def zipped(exchange: Exchange) -> None:
        body = gzip.compress(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}')
        await exchange.head(200, "application/json", "content-encoding: gzip", f"content-length: {len(body)}")
        exchange.writer.write(body)

    rig = await make(zipped)
    assert (await rig.ask(stream=False)).json()["usage"]["prompt_tokens"] == 3
    assert rig.model_proxy.usage.total_tokens == 7


async def test_a_silent_provider_is_given_up(make: Make) -> None:
    """No byte within the read timeout counts as a lost connection."""
    rig = await make(silent, read_timeout=0.1)
    assert (await rig.ask()).status_code == 403
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR


async def test_an_endless_event_does_not_fill_the_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that never ends an event is cut off."""
    monkeypatch.setattr(bounds, "MODEL_ANSWER", bounds.JsonLimit(bytes=100_000, depth=64, values=1000))

    async def huge(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        while True:
            exchange.writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            await exchange.writer.drain()

    rig = await make(huge)
    with pytest.raises(httpx2.HTTPError):
        await rig.ask()
    assert rig.calls[0].outcome == "cut"


async def test_too_large_a_request_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent cannot fill the function's memory through its model proxy."""
    monkeypatch.setattr(bounds, "MODEL_REQUESTS", 100_000)
    rig = await make(chat("a"))
    try:
        response = await rig.ask(padding="x" * 200_000)
        assert response.status_code == 413
    except httpx2.WriteError:
        assert not rig.model.requests
    assert said(await rig.ask()) == "a"


async def test_the_token_budget_ends_the_execution(make: Make) -> None:
    """The call that crosses the limit is the last one."""
    rig = await make(chat("a", prompt=60), limits=Limits(max_total_tokens=100))
    assert said(await rig.ask()) == "a"
    assert rig.model_proxy.failure is None
    assert said(await rig.ask()) == "a"
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.BUDGET_EXCEEDED
    assert "100" in rig.model_proxy.failure.message
    assert (await rig.ask()).status_code == 403
    assert len(rig.model.requests) == 2


@pytest.mark.parametrize(
    ("limits", "prompt", "least", "most"),
    [
        (Limits(max_total_tokens=50), "hello", 16, 100),
        (Limits(max_cost_usd=0.00005), "hello", 16, 100),
        (Limits(max_total_tokens=10_500), "x" * 40_000, 400, 600),
    ],
    ids=["tokens", "cost", "prompt"],
)
async def test_a_call_that_runs_away_is_cut_in_the_middle(
    make: Make, limits: Limits, prompt: str, least: int, most: int
) -> None:
    """An answer that grows over the budget is not waited for; its prompt counts while the provider reports nothing."""
    rig = await make(endless(0.001), limits=limits, prices=Prices(1, 1, 1, 1))
    with pytest.raises(httpx2.HTTPError):
        await rig.ask(messages=[{"role": "user", "content": prompt}])
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.BUDGET_EXCEEDED
    assert least <= rig.model_proxy.usage.output_tokens <= most
    await asyncio.wait_for(rig.model.hung_up.wait(), 1)


async def test_cost_is_counted_where_the_price_is_known(make: Make) -> None:
    """Known price: dollars. Unknown price: 0."""
    rig = await make(chat("a", prompt=1_000_000), prices=Prices(2, 8, 0.5, 2), limits=Limits(max_cost_usd=1.5))
    await rig.ask()
    assert rig.model_proxy.usage.cost_usd == pytest.approx(2.000008)
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.BUDGET_EXCEEDED
    rig = await make(chat("a"), limits=Limits(max_cost_usd=1.5))
    await rig.ask()
    assert rig.model_proxy.usage.cost_usd == 0


async def test_refuse_cuts_running_calls(make: Make) -> None:
    """Spending stops with the click, though the provider would write for ever: its connection and the agent's are
    closed, the next call gets 403."""
    rig = await make(endless())
    async with rig.client.stream("POST", "/chat/completions", json=ASK) as response:
        lines = response.aiter_lines()
        await anext(lines)
        rig.model_proxy.refuse("cancelled")
        with pytest.raises(httpx2.HTTPError):
            _ = [line async for line in lines]
        await asyncio.wait_for(rig.model.hung_up.wait(), 5)
    after = await rig.ask()
    assert after.status_code == 403
    assert "cancelled" in after.text
    assert rig.calls[0].outcome == "refused"
    assert rig.model_proxy.usage.output_tokens > 0
    assert rig.model_proxy.failure is None


async def test_refuse_ends_a_call_that_waits_for_its_next_try(make: Make) -> None:
    """Also in the pause between two tries."""
    rig = await make(status(429, "{}", "retry-after: 0.9"))
    asked = asyncio.ensure_future(rig.ask())
    await until(lambda: rig.activity > 1)
    rig.model_proxy.refuse("cancelled")
    answer = await asked
    assert (answer.status_code, "cancelled" in answer.text) == (403, True)
    assert len(rig.model.requests) == 1


async def test_an_agent_that_hangs_up_stops_the_provider(make: Make) -> None:
    """Nobody reads, so nobody generates, even while the provider is silent."""
    rig = await make(silent)
    asked = asyncio.ensure_future(rig.ask())
    await until(lambda: bool(rig.model.requests))
    asked.cancel()
    await asyncio.wait_for(rig.model.hung_up.wait(), 1)
    await until(lambda: bool(rig.calls))
    assert rig.calls[0].outcome == "gone"
    assert rig.model_proxy.in_flight == 0


async def test_a_closed_broker_frees_its_port(make: Make) -> None:
    """The token dies with the execution."""
    rig = await make(chat("a"))
    await rig.model_proxy.close()
    with pytest.raises(httpx2.ConnectError):
        await rig.ask()


async def test_anthropic_answers_are_counted_and_sent_with_their_headers(make: Make) -> None:
    """The messages form: x-api-key, version and beta headers, tokens from message_start and message_delta."""

    async def messages(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        usage = {
            "input_tokens": 5,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 3,
            "output_tokens": 1,
        }
        for event in (
            {"type": "message_start", "message": {"usage": usage}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ):
            await exchange.event(event, str(event["type"]))
        await exchange.end()

    rig = await make(messages, kind="anthropic", max_tokens=50)
    headers = {"authorization": "", "x-api-key": rig.model_proxy.token, "anthropic-beta": "tools-1"}
    response = await rig.client.post("/messages", json={**ASK, "max_tokens": 9000}, headers=headers)
    assert "message_stop" in response.text
    sent = rig.model.requests[0]
    assert sent.path == "/v1/messages"
    assert (sent.headers["x-api-key"], sent.headers["anthropic-beta"]) == (KEY, "tools-1")
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in sent.headers
    assert sent.body["max_tokens"] == 50
    assert "stream_options" not in sent.body
    usage = rig.model_proxy.usage
    assert (usage.input_tokens, usage.output_tokens) == (5, 9)
    assert (usage.cache_read_tokens, usage.cache_write_tokens, usage.total_tokens) == (100, 3, 117)


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
@pytest.mark.parametrize("stream", [True, False])
async def test_before_it_has_a_target_a_broker_answers_by_itself(path: str, stream: bool) -> None:
    """A warm slot boots on a canned word that costs nothing, in every wire form."""
    upstream = Upstream(SystemClock())
    model_proxy = await ModelProxy(upstream, SystemClock()).start()
    headers = {"authorization": f"Bearer {model_proxy.token}"}
    async with httpx2.AsyncClient(base_url=model_proxy.base_url, headers=headers) as client:
        response = await client.post(path, json={**ASK, "stream": stream})
    assert response.status_code == 200
    assert "ready" in response.text
    assert model_proxy.usage.requests == 0
    await model_proxy.close()
    await upstream.close()


async def test_a_name_that_leads_to_a_metadata_address_is_refused_when_connecting(make: Make) -> None:
    """The address is checked at the connection, not only in the URL."""
    rig = await make(chat("a"), base_url="http://169.254.169.254/v1")
    assert (await rig.ask()).status_code == 403
    assert rig.model_proxy.failure is not None
    assert "metadata" in rig.model_proxy.failure.message
    assert rig.calls[0].tries == 0


async def test_connections_are_kept_and_reused(make: Make) -> None:
    """Many requests, few connections: pipelining by keep-alive works."""
    rig = await make(chat("a"))
    for _ in range(5):
        assert said(await rig.ask()) == "a"
    assert len(rig.model_proxy._server._connections) == 1


HTML = b"<html><body>Sign in to the network</body></html>"
NOTHING = {"choices": []}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
ECHO = {
    "type": "response.created",
    "response": {"instructions": "be good", "tools": [{"type": "function"}], "output": []},
}


@pytest.mark.parametrize(
    ("act", "seen"),
    [
        (whole(HTML, "text/html; charset=utf-8"), "status 200, content type text/html"),
        (whole(b"", "text/plain"), "status 200, content type text/plain"),
        (events(NOTHING, "[DONE]"), "an empty answer"),
        (events(STOP, "[DONE]"), "an empty answer"),
        (events(ECHO, {"type": "response.completed", "response": {"output": []}}), "an empty answer"),
        (whole(b'{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}'), "an empty answer"),
        (events({"error": {"message": "overloaded"}}), "ended in an error"),
        (cut("half"), "broke off"),
        (whole(b"x" * 10, "application/json", "content-encoding: br"), "content encoding br"),
        (whole(zstandard.compress(b"x" * 10_000_000), "text/event-stream", "content-encoding: zstd"), "zstd"),
        (whole(zlib.compress(b"x" * 10_000_000), "application/json", "content-encoding: deflate"), "200 times"),
        (whole(b"no gzip", "application/json", "content-encoding: gzip"), "not valid gzip"),
    ],
)
async def test_answers_of_no_use_end_the_execution_after_three(make: Make, act: Act, seen: str) -> None:
    """What was seen is said, not what it said; nothing is counted that nobody reported."""
    rig = await make(act)
    for number in range(1, 4):
        try:
            assert (await rig.ask()).status_code in (200, 502)
        except httpx2.HTTPError:
            assert rig.calls[-1].outcome == "cut"
        assert (rig.model_proxy.failure is not None) is (number == 3)
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.MODEL_ERROR
    assert "3 times in a row" in rig.model_proxy.failure.message
    assert seen in rig.model_proxy.failure.message
    assert "Sign in" not in rig.model_proxy.failure.message
    assert len(rig.model.requests) == 3
    if seen != "broke off":
        assert rig.model_proxy.usage.total_tokens == 0


async def test_an_empty_answer_now_and_then_is_no_failure(make: Make) -> None:
    """Models do end a turn without a word; only three in a row are none."""
    rig = await make(events(STOP, "[DONE]"), events(STOP, "[DONE]"), chat("a"), events(STOP, "[DONE]"))
    for _ in range(5):
        assert (await rig.ask()).status_code == 200
    assert rig.model_proxy.failure is None


async def test_headers_of_the_endpoint_stay_out_of_errors(make: Make) -> None:
    """The content type is shown, as far as it can be printed, and short."""
    rig = await make(whole(HTML, "text/" + "x" * 500))
    for _ in range(3):
        await rig.ask()
    assert rig.model_proxy.failure is not None
    assert len(rig.model_proxy.failure.message) < 300


async def test_thirty_two_kilobytes_of_zstd_stay_thirty_two_kilobytes(make: Make) -> None:
    """They would become a gigabyte, in an answer or in an error; nobody inflates them."""
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1024**3 // 4))
    assert len(bomb) < 32 * 1024
    for act in (
        whole(bomb, "text/event-stream", "content-encoding: zstd"),
        status(500, "x", "content-encoding: zstd"),
        whole(gzip.compress(bytes(64 * 1024**2)), "text/event-stream", "content-encoding: gzip"),
    ):
        rig = await make(act)
        tracemalloc.start()
        try:
            with suppress(httpx2.HTTPError):
                await rig.ask()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 1024**2


async def test_a_model_that_thinks_is_not_silent(make: Make) -> None:
    """Comments are bytes: five times the silence that is allowed, and then the answer. But they are no sign of life:
    SILENCE_TIMEOUT ends a run whose model sends nothing else."""
    rig = await make(slow(10, 0.2, "well"), read_timeout=0.4)
    assert said(await rig.ask()) == "well"
    assert rig.model_proxy.failure is None
    assert rig.activity < 10


async def test_a_model_that_falls_silent_in_an_answer_is_cut(make: Make) -> None:
    """It counts as an answer that broke off; three are a model_error that names the setting."""

    async def stalls(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        await exchange.event(delta("so"))
        await asyncio.sleep(3600)

    rig = await make(stalls, read_timeout=0.2)
    for _ in range(3):
        with pytest.raises(httpx2.HTTPError):
            await rig.ask()
    assert rig.model_proxy.failure is not None
    assert "MODEL_SILENCE_SECONDS" in rig.model_proxy.failure.message


async def test_parallel_calls_cannot_pass_a_budget_together(make: Make) -> None:
    """Each alone would keep it: they go out one by one, and all that was used is counted."""
    rig = await make(chat("a", prompt=1000, completion=100, pause=0.01), limits=Limits(max_total_tokens=5000))
    answers = await asyncio.gather(*(rig.ask() for _ in range(30)))
    used = sum(exchange.body is not None for exchange in rig.model.requests) * 1100
    assert rig.model_proxy.usage.total_tokens == used == 5500
    assert sorted({answer.status_code for answer in answers}) == [200, 403]
    assert rig.model_proxy.failure is not None
    assert rig.model_proxy.failure.reason is Reason.BUDGET_EXCEEDED


async def test_parallel_calls_far_from_a_budget_run_at_once(make: Make) -> None:
    """Their estimates fit together, so nobody waits."""
    rig = await make(endless(), limits=Limits(max_total_tokens=10_000_000))
    asked = [asyncio.ensure_future(rig.ask()) for _ in range(8)]
    await until(lambda: len(rig.model.requests) == 8)
    rig.model_proxy.refuse("cancelled")
    await asyncio.gather(*asked, return_exceptions=True)


async def test_calls_that_run_are_held_to_the_budget_together(make: Make) -> None:
    """Three fit when they begin; what they say together passes the limit, and all are cut there."""
    rig = await make(endless(0.002), limits=Limits(max_total_tokens=2000))
    asked = [asyncio.ensure_future(rig.ask(max_tokens=600)) for _ in range(3)]
    await until(lambda: len(rig.model.requests) == 3)
    await asyncio.gather(*asked, return_exceptions=True)
    assert rig.model_proxy.failure is not None
    assert "in the middle of an answer" in rig.model_proxy.failure.message
    assert 1900 <= rig.model_proxy.usage.total_tokens <= 2300


async def test_a_call_that_is_cut_off_has_used_what_was_sent(make: Make) -> None:
    """The provider has read it, and is paid for that, also when it had no time to say so."""
    rig = await make(silent)
    asked = asyncio.ensure_future(rig.ask(messages=[{"role": "user", "content": "x" * 40_000}]))
    await until(lambda: bool(rig.model.requests))
    rig.model_proxy.refuse("cancelled")
    await asked
    assert rig.model_proxy.usage.input_tokens == pytest.approx(10_000, rel=0.05)
    assert rig.calls[0].estimated


async def test_calls_at_once_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """429, which agents try again; the run goes on."""
    monkeypatch.setattr(bounds, "MODEL_CALLS", 2)
    rig = await make(endless(), endless(), chat("a"))
    asked = [asyncio.ensure_future(rig.ask()) for _ in range(2)]
    await until(lambda: len(rig.model.requests) == 2)
    assert (await rig.ask()).status_code == 429
    for one in asked:
        one.cancel()
    await until(lambda: rig.model_proxy.in_flight == 0)
    assert said(await rig.ask()) == "a"
    assert rig.model_proxy.failure is None


async def test_requests_that_cost_too_much_get_413_and_the_run_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many values, too deep, too long: each named, none ends the execution or reaches the provider."""
    monkeypatch.setattr(bounds, "MODEL_REQUEST", bounds.JsonLimit(bytes=100_000, depth=20, values=1000))
    monkeypatch.setattr(bounds, "MODEL_SKELETON", bounds.JsonLimit(bytes=50_000, depth=20, values=1000))
    rig = await make(chat("a"))
    for body, words in ((b"[" + b"[]," * 2000 + b"0]", "values"), (b"[" * 50 + b"]" * 50, "nested")):
        response = await rig.client.post("/chat/completions", content=body)
        assert response.status_code == 413
        assert words in response.json()["error"]["message"]
    assert not rig.model.requests
    assert said(await rig.ask()) == "a"
    assert rig.model_proxy.failure is None


@pytest.mark.parametrize(
    "fields", [{"background": True}, {"tools": [{"type": "mcp", "server_url": "https://evil"}]}, {"store": True}]
)
async def test_nothing_is_spent_unseen(make: Make, fields: dict[str, Any]) -> None:
    """Background work and hosted tools never reach the provider; nothing is stored there."""
    text = {"type": "response.output_text.delta", "delta": "a"}
    rig = await make(events(text, {"type": "response.completed", "response": {}}))
    response = await rig.ask("/responses", **fields)
    if "store" in fields:
        assert rig.model.requests[0].body["store"] is False
    else:
        assert response.status_code == 400
        assert next(iter(fields)) in response.json()["error"]["message"]
        assert not rig.model.requests
    assert rig.model_proxy.failure is None


async def test_half_a_character_in_a_request_is_the_agents_business(make: Make) -> None:
    """JavaScript cuts texts inside an emoji: it goes out as it came, and is no mistake of the proxy's."""
    rig = await make(chat("a"))
    body = b'{"model": "x", "stream": true, "messages": [{"role": "user", "content": "Fix the \\ud83d"}]}'
    assert said(await rig.client.post("/chat/completions", content=body)) == "a"
    assert rig.model.requests[0].body["messages"][0]["content"] == "Fix the \ud83d"


async def test_a_long_event_in_small_pieces_costs_what_it_weighs(make: Make) -> None:
    """Each piece is searched once: 2,000 pieces of one event are no 2,000 searches of all of it."""
    meter = UsageMeter("chat")
    touched = 0

    class Counted(bytearray):
        def rfind(self, needle: Any, start: Any = 0, *rest: Any) -> int:
            nonlocal touched
            touched += len(self) - start
            return super().rfind(needle, start, *rest)

    meter._remainder = Counted()
    for _ in range(2000):
        assert meter.feed(b"x" * 1000) == b""
    assert touched < 2.1 * 2000 * 1000
