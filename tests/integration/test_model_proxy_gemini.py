"""Gemini's generateContent through the model proxy: requests, answers in pieces, usage, redaction, limits."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from ocf.events.command_payloads import Limits
from ocf.events.lifecycle import Reason
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import Call, Hooks, ModelProxy, RetryPolicy, Upstream
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.prices import Prices
from tests.support.faulty_model import CHUNKED, Act, Exchange, events, faulty_model, whole

KEY = "AIzaReal-0123456789-abcdefghijkl"
ASK: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
STREAM = "/models/any:streamGenerateContent?alt=sse"
WHOLE = "/models/any:generateContent"
USAGE = {
    "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 5, "thoughtsTokenCount": 7,
    "totalTokenCount": 112,
}  # fmt: skip


def chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], **more}


class Rig:
    """A model proxy in front of a scripted Gemini."""

    def __init__(self, *script: Act, limits: Limits | None = None, **target: Any) -> None:
        self.script, self.limits, self.wanted = script, limits, target
        self.calls: list[Call] = []

    async def __aenter__(self) -> Rig:
        self._serving = faulty_model(*self.script)
        self.model = await self._serving.__aenter__()
        self.upstream = Upstream(SystemClock(), retry=RetryPolicy(tries=2, base=0.01))
        self.proxy = await ModelProxy(self.upstream, SystemClock()).start()
        base_url = self.model.base_url.removesuffix("/v1") + "/v1beta"
        target = ModelTarget(**{
            "provider": "google", "model": "gemini-x", "kind": "google", "base_url": base_url,
            "api_key": SecretStr(KEY), **self.wanted,
        })  # fmt: skip
        self.proxy.assign(target, self.limits or Limits(), Hooks(on_call_end=self.calls.append))
        headers = {"x-goog-api-key": self.proxy.token}
        url = self.proxy.base_url.removesuffix("/v1") + "/v1beta"
        self.client = httpx2.AsyncClient(base_url=url, headers=headers, timeout=10)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.aclose()
        await self.proxy.close()
        await self.upstream.close()
        await self._serving.__aexit__(None, None, None)

    async def ask(self, path: str = STREAM, **fields: Any) -> httpx2.Response:
        return await self.client.post(path, json={**ASK, **fields})


def said(response: httpx2.Response) -> str:
    found = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    return "".join(part["text"] for one in found for c in one["candidates"] for part in c["content"]["parts"])


async def test_a_stream_is_passed_and_counted() -> None:
    """The key in Gemini's header, the model in the path, thoughts as output, cached tokens apart."""
    script = events(chunk("hel"), chunk("lo", "STOP", usageMetadata=USAGE))
    async with Rig(script, model_version="002", prices=Prices(1, 10, 0.1)) as rig:
        assert said(await rig.ask()) == "hello"
        sent = rig.model.requests[0]
        assert sent.path == "/v1beta/models/gemini-x-002:streamGenerateContent?alt=sse"
        assert sent.headers["x-goog-api-key"] == KEY
        assert "model" not in sent.body
        usage = rig.proxy.usage
        assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (60, 40, 12)
        assert usage.reasoning_tokens == 7
        assert usage.cost_usd == pytest.approx((60 + 120 + 4) / 1e6)
        assert (rig.calls[0].outcome, rig.calls[0].estimated) == ("ok", False)


async def test_an_answer_in_one_piece_is_counted_too() -> None:
    """generateContent without a stream."""
    async with Rig(whole(json.dumps(chunk("hello", "STOP", usageMetadata=USAGE)).encode())) as rig:
        assert (await rig.ask(WHOLE)).json()["candidates"][0]["finishReason"] == "STOP"
        assert rig.model.requests[0].path == "/v1beta/models/gemini-x:generateContent"
        assert rig.proxy.usage.total_tokens == 112


@pytest.mark.parametrize("pieces", [[KEY], [KEY[:10], KEY[10:]], list(KEY)])
async def test_the_key_is_cut_out_in_whatever_pieces_it_comes(pieces: list[str]) -> None:
    """Also when the last piece carries the finish reason and nothing follows it."""
    sent = [chunk(piece) for piece in pieces[:-1]] + [chunk(pieces[-1], "STOP", usageMetadata=USAGE)]
    async with Rig(events(*sent)) as rig:
        answer = await rig.ask()
        # One or two letters are no beginning of a secret yet.
        assert said(answer).endswith("[redacted]")
        assert KEY[2:] not in said(answer)


async def test_text_before_a_secret_stays_whole() -> None:
    """What only looked like the beginning of a secret comes with the last event, thoughts apart from the answer."""
    thought = {"index": 0, "content": {"parts": [{"text": "hm", "thought": True}]}}
    async with Rig(events({"candidates": [thought]}, chunk(KEY[:12]), chunk(" x", "STOP"))) as rig:
        assert said(await rig.ask()) == f"hm{KEY[:12]} x"


async def test_the_callers_wishes_reach_the_provider() -> None:
    """In `generationConfig`, over what the agent sends in either spelling; tools that are not enabled are taken out."""
    wanted = {"temperature": 0.25, "max_tokens": 77, "enabled_tools": ("read",)}
    tools = [{"functionDeclarations": [{"name": "bash"}, {"name": "read"}]}]
    async with Rig(events(chunk("a", "STOP")), **wanted) as rig:
        await rig.ask(generation_config={"max_output_tokens": 9000, "temperature": 1}, tools=tools, labels={"a": "b"})
        body = rig.model.requests[0].body
        assert body["generationConfig"] == {"maxOutputTokens": 77, "temperature": 0.25}
        assert body["tools"] == [{"functionDeclarations": [{"name": "read"}]}]
        assert set(body) == {"contents", "generationConfig", "tools"}


@pytest.mark.parametrize(("fields", "named"), [
    ({"tools": [{"googleSearch": {}}]}, "googleSearch"),
    ({"tools": [{"functionDeclarations": [], "code_execution": {}}]}, "code_execution"),
    ({"cachedContent": "cachedContents/1"}, "cachedContent"),
    ({"cached_content": "cachedContents/1"}, "cachedContent"),
    ({"contents": [{"parts": [{"fileData": {"fileUri": "https://inside/secret"}}]}]}, "fileData"),
    ({"contents": [{"parts": [{"functionResponse": {"parts": [{"file_data": {"file_uri": "x"}}]}}]}]}, "file_data"),
    ({"system_instruction": {"parts": [{"fileData": {"fileUri": "gs://x"}}]}}, "fileData"),
])  # fmt: skip
async def test_what_would_make_google_do_more_than_answer_is_refused(fields: dict[str, Any], named: str) -> None:
    """Searches, code, files by name, stored content: 400 that names the field; nothing is sent."""
    async with Rig(events(chunk("a", "STOP"))) as rig:
        refused = await rig.ask(**fields)
        assert refused.status_code == 400
        assert named in refused.text
        assert not rig.model.requests


async def test_an_answer_without_usage_is_estimated_and_cut_at_the_budget() -> None:
    """A provider that counts nothing does not evade the limit."""

    async def endless(exchange: Exchange) -> None:
        await exchange.head(200, "text/event-stream", CHUNKED)
        while True:
            await exchange.event(chunk("word "))

    async with Rig(endless, limits=Limits(max_total_tokens=200)) as rig:
        with pytest.raises(httpx2.HTTPError):
            await rig.ask()
        assert rig.proxy.failure is not None
        assert rig.proxy.failure.reason is Reason.BUDGET_EXCEEDED


@pytest.mark.parametrize(("act", "words"), [
    (events(chunk("half")), "broke off"), (events({"candidates": [], "usageMetadata": USAGE}), "broke off"),
    (events({"candidates": [{"index": 0, "finishReason": "STOP"}]}), "an empty answer"),
    (events({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}), "ended in an error"),
])  # fmt: skip
async def test_answers_that_are_useless_end_the_execution(act: Act, words: str) -> None:
    """Three in a row, as in the other formats."""
    async with Rig(act) as rig:
        for _ in range(3):
            try:
                await rig.ask()
            except httpx2.HTTPError:
                assert words == "broke off"
        assert rig.proxy.failure is not None
        assert words in rig.proxy.failure.message


async def test_a_function_call_is_an_answer() -> None:
    """An answer without text is not empty when it calls a tool."""
    call = {"functionCall": {"name": "bash", "args": {"command": "ls"}}}
    done = {"candidates": [{"index": 0, "content": {"parts": [call]}, "finishReason": "STOP"}]}
    async with Rig(events(done)) as rig:
        await rig.ask()
        assert rig.calls[0].outcome == "ok"


async def test_other_formats_and_methods_are_refused() -> None:
    """An execution has one family of formats; embeddings, counting and uploads are not forwarded."""
    async with Rig(events(chunk("a", "STOP"))) as rig:
        assert (await rig.ask("/models/any:embedContent")).status_code == 404
        assert (await rig.ask("/models/a/b:generateContent")).status_code == 404
        assert (await rig.client.post(rig.proxy.base_url + "/chat/completions", json={})).status_code == 400
        assert (await rig.client.get("/models")).json()["models"][0]["name"] == "models/gemini-x"
        assert not rig.model.requests
