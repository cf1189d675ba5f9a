"""What the model proxy makes of an agent's request: within limits, at a bounded cost, and nothing but a model call."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events import untrusted_json
from ocf.events.untrusted_json import KIB, JsonLimit, OverLimit
from ocf.functions.execute.model_proxy.request import ModelRequest, prepare, read
from ocf.functions.execute.model_proxy.string_placeholders import BadRequest, elide
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.resolve import ModelSettings, resolve

OPENAI = ModelTarget("local", "m", "openai", "http://127.0.0.1:9/v1")
ANTHROPIC = ModelTarget("anthropic", "m", "anthropic", "http://127.0.0.1:9/v1")
IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 2000


async def ready(wire: Wire, body: Any, left: int | None = None) -> ModelRequest:
    raw = bytearray(body if isinstance(body, bytes) else json.dumps(body).encode())
    elided, parsed = await read(raw)
    target = ANTHROPIC if wire == "messages" else OPENAI
    return prepare(wire, elided, parsed, target, left, stream=bool(parsed.get("stream")))


async def sent(wire: Wire, body: Any, left: int | None = None) -> dict[str, Any]:
    return dict(json.loads((await ready(wire, body, left)).data))


TEXTS = st.text(st.characters(codec=None), max_size=8).map(lambda text: text * 200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(content=JSON, ascii_only=st.booleans())
def test_conversation_is_forwarded_unchanged(content: Any, ascii_only: bool) -> None:
    """Long and short texts, escapes, backslashes and quotes at any place, halves of surrogate pairs."""
    body = {"model": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": content}]}]}
    raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass" if ascii_only else "replace")
    out = asyncio.run(sent("chat", raw))
    assert out["messages"] == json.loads(raw)["messages"]


async def test_a_text_of_the_agents_cannot_pass_for_one_that_was_left_out() -> None:
    """The mark is made anew for each request, after the agent has written it."""
    first = await elide(bytearray(b'{"a": "' + b"x" * 600 + b'"}'))
    body = {"messages": [f"{first.mark}0", "y" * 600]}
    assert (await sent("chat", body))["messages"] == body["messages"]


async def test_parts_between_two_texts_are_not_text() -> None:
    """A long run of numbers or of blanks, from one text's last quote to the next one's first."""
    body = {"messages": [{"a": [1] * 1000, "b": "c", "d": "e" * 900, "f": [2] * 1000, "": ""}]}
    assert (await sent("chat", body))["messages"] == body["messages"]
    raw = json.dumps(body, indent=600).encode()
    assert (await sent("chat", raw))["messages"] == body["messages"]


async def test_backslashes_at_the_border_of_a_slice_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is read slice by slice; an escape is never cut in two."""
    body = {"messages": [{"content": "\\" * 50 + '"' + '\\"' * 30}, {"content": '"' * 700}]}
    for size in range(1, 40):
        monkeypatch.setattr("ocf.functions.execute.model_proxy.string_placeholders._SLICE", size)
        assert (await sent("chat", body))["messages"] == body["messages"]


def wide(count: int) -> bytes:
    return b'{"messages":[' + b"[]," * count + b"0]}"


def deep(depth: int) -> bytes:
    return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (wide(40_000), "values"),
        (deep(2000), "nested"),
        (b'{"a":"' + b"x" * 650 * KIB + b'"}', "bytes"),
        (b'"' * 400 * KIB, "strings"),
        (b'{"a":[' + (b'"' + b"y" * 500 + b'",') * 400 + b"0]}", "without its long texts"),
    ],
    ids=["lists", "deep", "too long", "strings", "short texts"],
)
async def test_request_over_the_parse_limits_is_not_parsed(
    body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """45 MB of `[],[],...` were 11 s and 1.2 GiB: such is measured, and no parser sees it. (Here 1/100 of that.)"""
    monkeypatch.setattr(untrusted_json, "MODEL_REQUEST", JsonLimit(bytes=640 * KIB, depth=100, values=3000))
    monkeypatch.setattr(untrusted_json, "MODEL_SKELETON", JsonLimit(bytes=160 * KIB, depth=100, values=3000))
    monkeypatch.setattr("ocf.events.untrusted_json.json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(OverLimit, match=words):
        await read(bytearray(body))


async def test_a_conversation_with_images_passes_and_is_in_memory_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 tokens, emojis in them, and images: one copy comes in, one goes out, and nothing four times."""
    monkeypatch.setattr("ocf.functions.execute.model_proxy.string_placeholders._SLICE", 64 * KIB)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 225_000}}
    messages: list[Any] = [{"role": "tool", "tool_call_id": f"c{n}", "content": "line 😀\n" * 200} for n in range(100)]
    text = json.dumps({"messages": [*messages, {"role": "user", "content": [picture, picture]}]}, ensure_ascii=False)
    raw = bytearray(text.encode())
    tracemalloc.start()
    try:
        elided, body = await read(raw)
        request = prepare("chat", elided, body, OPENAI, None, stream=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(request.data) == pytest.approx(len(raw), rel=0.05)
    # What came was there before: beside it there is one that has no escapes, and then the one that goes out.
    assert peak < 1.3 * len(raw)
    # Images are counted as images: by their bytes they would be 900,000 tokens.
    assert 50_000 < request.input_tokens < 80_000


async def test_reading_a_request_lets_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop gets its turn with each slice: chunks of the execution are said meanwhile."""
    monkeypatch.setattr("ocf.functions.execute.model_proxy.string_placeholders._SLICE", 40 * KIB)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await read(bytearray(json.dumps({"messages": ["x" * 400 * KIB]}).encode()))
    beside.cancel()
    assert turns >= 10


@pytest.mark.parametrize(
    ("wire", "fields", "named"),
    [
        ("responses", {"background": True}, "background"),
        ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("responses", {"tools": [{"type": "mcp", "server_url": "https://evil"}]}, "mcp"),
        ("responses", {"tools": [{"type": "web_search"}]}, "web_search"),
        ("responses", {"tools": [{"type": "web_search_preview_2025_03_11"}]}, "web_search"),
        ("responses", {"tools": [{"type": "code_interpreter"}]}, "code_interpreter"),
        ("responses", {"tools": [{"type": "file_search"}]}, "file_search"),
        ("responses", {"tools": [{"type": "computer_use_preview"}]}, "computer_use"),
        ("responses", {"tools": [{"type": "image_generation"}]}, "image_generation"),
        ("responses", {"tools": [{"type": ["function"]}]}, "function"),
        ("responses", {"input": [{"content": [{"type": "input_image", "image_url": "https://evil/x"}]}]}, "image_url"),
        ("responses", {"input": [{"content": [{"type": "input_file", "file_url": "https://evil/x"}]}]}, "file_url"),
        ("responses", {"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}, "file_id"),
        ("responses", {"input": [{"output": [{"type": "input_image", "image_url": "http://e/"}]}]}, "image_url"),
        ("chat", {"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ("chat", {"plugins": [{"id": "web"}]}, "plugins"),
        ("chat", {"tools": [{"type": "mcp"}]}, "mcp"),
        ("chat", {"messages": [{"content": [{"image_url": {"url": "https://evil/x"}}]}]}, "image_url"),
        ("chat", {"messages": [{"content": [{"image_url": {"url": "https://e/" + "x" * 900}}]}]}, "image_url"),
        ("chat", {"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "file_id"),
        ("messages", {"mcp_servers": [{"url": "https://evil"}]}, "mcp_servers"),
        ("messages", {"container": {"skills": []}}, "container"),
        ("messages", {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, "web_fetch"),
        ("messages", {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "code_execution"),
        ("messages", {"messages": [{"content": [{"source": {"type": "url", "url": "https://e"}}]}]}, "source"),
        ("messages", {"messages": [{"content": [{"source": {"type": "file", "file_id": "f"}}]}]}, "source"),
        (
            "messages",
            {"messages": [{"content": [{"content": [{"source": {"type": "url", "url": "https://e"}}]}]}]},
            "source",
        ),
        # Gateways read Gemini's tools and other providers' media in OpenAI's format, in both spellings.
        ("chat", {"tools": [{"googleSearch": {}}]}, "googleSearch"),
        ("chat", {"tools": [{"type": "function", "function": {"name": "a"}, "urlContext": {}}]}, "urlContext"),
        ("chat", {"messages": [{"content": [{"file": {"file_data": "https://evil/x"}}]}]}, "file_data"),
        ("chat", {"messages": [{"content": [{"file": {"fileData": "https://e/" + "x" * 900}}]}]}, "fileData"),
        ("chat", {"messages": [{"content": [{"imageUrl": {"url": "https://evil/x"}}]}]}, "imageUrl"),
        ("chat", {"messages": [{"content": [{"document_url": "https://evil/x"}]}]}, "document_url"),
        ("chat", {"messages": [{"content": [{"input_audio": {"data": "https://evil/x"}}]}]}, "input_audio"),
        ("chat", {"messages": [{"content": [{"video": ["https://evil/x"]}]}]}, "video"),
        ("messages", {"messages": [{"content": [{"source": {"url": "https://evil/x"}}]}]}, "source"),
        ("messages", {"system": [{"source": {"type": "url", "url": "https://evil/x"}}]}, "source"),
        # One object in place of a list, and lists in lists.
        ("chat", {"tools": {"type": "mcp"}}, "tools"),
        ("chat", {"messages": {"content": [{"image_url": {"url": "https://evil/x"}}]}}, "messages"),
        ("chat", {"messages": "https://evil/x"}, "messages"),
        ("chat", {"messages": [{"content": {"image_url": "https://evil/x"}}]}, "image_url"),
        ("chat", {"messages": [[{"content": [[{"image_url": "https://evil/x"}]]}]]}, "image_url"),
        ("responses", {"tools": {"type": "web_search"}}, "tools"),
        ("responses", {"input": {"content": [{"type": "input_file", "file_url": "https://evil/x"}]}}, "input"),
        ("messages", {"tools": {"type": "web_fetch_20250910"}}, "tools"),
        ("messages", {"messages": {"content": {"source": {"type": "url", "url": "https://evil/x"}}}}, "messages"),
        ("messages", {"messages": [{"content": {"source": {"type": "url", "url": "https://evil/x"}}}]}, "source"),
        ("gemini", {"tools": {"googleSearch": {}}}, "googleSearch"),
        ("gemini", {"tools": {"urlContext": {}, "codeExecution": {}}}, "urlContext"),
        ("gemini", {"tools": [{"google_search": {}}]}, "google_search"),
        ("gemini", {"tools": "googleSearch"}, "tools"),
        ("gemini", {"contents": {"parts": [{"fileData": {"fileUri": "https://inside/secret"}}]}}, "fileData"),
        ("gemini", {"contents": {"parts": {"file_data": {"file_uri": "https://inside/secret"}}}}, "file_data"),
        ("gemini", {"contents": [{"parts": {"functionResponse": {"parts": {"fileData": {}}}}}]}, "fileData"),
        ("gemini", {"contents": [{"parts": {"function_response": {"parts": {"fileData": {}}}}}]}, "fileData"),
        ("gemini", {"system_instruction": {"parts": {"fileData": {"fileUri": "gs://x"}}}}, "fileData"),
        ("gemini", {"contents": "https://inside/secret"}, "contents"),
    ],
)
async def test_hosted_tools_of_the_provider_are_refused(wire: Wire, fields: dict[str, Any], named: str) -> None:
    """Work nobody can count, tools and references by which the provider reaches the network: the field is named."""
    with pytest.raises(BadRequest, match=named):
        await sent(wire, {"model": "x", **fields})


async def test_tools_of_the_provider_that_the_operator_allows_pass() -> None:
    """MODEL_PROVIDER_TOOLS names them, type by type."""
    settings = ModelSettings(offline_url="http://127.0.0.1:9/v1", provider_tools=("web_search",))
    target = resolve(None, settings)
    for kind, passes in (("web_search", True), ("mcp", False)):
        elided, body = await read(bytearray(json.dumps({"tools": [{"type": kind}]}).encode()))
        if passes:
            assert json.loads(prepare("responses", elided, body, target, None).data)["tools"] == [{"type": kind}]
        else:
            with pytest.raises(BadRequest, match="MODEL_PROVIDER_TOOLS"):
                prepare("responses", elided, body, target, None)


async def test_tools_of_the_agent_pass() -> None:
    """Function and custom tools, images as data; what a model told a tool of the agent's may name any address."""
    tools = [{"type": "function", "function": {"name": "bash"}}, {"type": "custom", "name": "patch"}, {"name": "read"}]
    told = {"type": "tool_use", "name": "webfetch", "input": {"url": "https://example.com", "source": {"type": "url"}}}
    body = {"messages": [{"role": "assistant", "content": [told]}], "tools": tools, "max_tokens": 9}
    out = await sent("messages", body)
    assert (out["messages"], out["tools"]) == (body["messages"], tools)
    media: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": IMAGE}}]
    media += [
        {"type": "file", "file": {"file_data": IMAGE}},
        {"type": "input_audio", "input_audio": {"data": "UklG/+="}},
    ]
    said = [{"role": "user", "content": media}, {"role": "user", "content": "https://example.com"}]
    assert (await sent("chat", {"messages": said}))["messages"] == said
    read = [{"type": "search_result", "source": "https://example.com", "content": [{"type": "text", "text": "a: b"}]}]
    read += [{"type": "document", "source": {"type": "text", "data": "see https://example.com"}}]
    told = [{"role": "user", "content": read}]
    assert (await sent("messages", {"messages": told}))["messages"] == told
    assert (await sent("responses", {"input": "https://example.com"}))["input"] == "https://example.com"


async def test_one_object_of_gemini_is_a_list_of_one() -> None:
    """Google takes both; what the agent's own tools may say passes in either form."""
    tools, contents = {"functionDeclarations": [{"name": "read"}]}, {"parts": {"text": "hello"}}
    out = await sent("gemini", {"tools": tools, "contents": contents})
    assert (out["tools"], out["contents"]) == ([tools], [contents])


@pytest.mark.parametrize("name", ["candidateCount", "candidate_count"])
async def test_gemini_gives_one_candidate(name: str) -> None:
    """The limit of tokens holds for each candidate, so eight of them would cost eight times what is left."""
    out = await sent("gemini", {"contents": [], "generationConfig": {name: 8, "topK": 3}})
    assert out["generationConfig"] == {"topK": 3}


@pytest.mark.parametrize("wire", ["chat", "responses", "messages"])
async def test_fields_that_nobody_knows_do_not_reach_the_provider(wire: Wire) -> None:
    """Another model that costs more, another tier, what is kept: none of it is counted, so none of it goes out."""
    fields = {"models": ["o1-pro"], "service_tier": "priority", "store": True, "metadata": {"a": "b"}, "n": 8}
    out = await sent(wire, {"model": "x", "temperature": 0.5, **fields})
    expected = {"model": "m", "temperature": 0.5} | ({"store": False} if wire == "responses" else {})
    assert out == expected


async def test_an_answer_that_does_not_stream_may_not_be_longer_than_what_is_left() -> None:
    """It cannot be cut in the middle. A stream can, and keeps its bound."""
    body = {"messages": [{"content": "x" * 400}], "max_tokens": 5000}
    assert (await sent("chat", body, left=1000))["max_tokens"] < 900
    assert (await sent("chat", {**body, "stream": True}, left=1000))["max_tokens"] == 5000
    assert (await sent("chat", body, left=100_000))["max_tokens"] == 5000
    assert "max_tokens" not in await sent("chat", {"messages": []}, left=100_000)
    openai = replace(OPENAI, base_url="https://api.openai.com/v1")
    elided, parsed = await read(bytearray(json.dumps(body).encode()))
    out = json.loads(prepare("chat", elided, parsed, openai, 1000).data)
    assert "max_tokens" not in out
    assert out["max_completion_tokens"] < 900
    request = await ready("chat", body)
    assert (request.output_tokens, request.input_tokens) == (5000, pytest.approx(115, abs=10))


async def test_a_document_of_text_is_estimated_as_text() -> None:
    """Only what is no text has a flat estimate."""
    for kind, least, most in (("text", 10_000, 10_200), ("base64", 2000, 2200)):
        source = {"type": kind, "data": "word " * 8000, "media_type": "text/plain"}
        body = {"messages": [{"content": [{"type": "document", "source": source}]}]}
        assert least <= (await ready("messages", body)).input_tokens <= most


@pytest.mark.parametrize("raw", [b'{"temperature": 1e999}', b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}"])
async def test_numbers_that_json_has_not_are_a_bad_request(raw: bytes) -> None:
    """They do not end the execution."""
    with pytest.raises(BadRequest):
        await sent("chat", raw)


def test_the_limit_of_a_request_lets_through_what_providers_take() -> None:
    """OpenAI takes 50 MB, Anthropic 32 MB; a million tokens are 4 MB."""
    assert untrusted_json.MODEL_REQUEST.bytes >= 50 * 1000 * KIB
    assert untrusted_json.MODEL_REQUEST.bytes <= untrusted_json.MODEL_REQUESTS
    assert JsonLimit(
        untrusted_json.MODEL_SKELETON.bytes, untrusted_json.MODEL_REQUEST.depth, untrusted_json.MODEL_REQUEST.values
    ) == (untrusted_json.MODEL_SKELETON)
