"""What the model proxy makes of requests and answers, byte by byte."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ocf.functions.execute.model_proxy.api_formats import canned, presented_token, upstream_headers
from ocf.functions.execute.model_proxy.request import read, rewrite
from ocf.functions.execute.model_proxy.string_placeholders import BadRequest
from ocf.functions.execute.model_proxy.upstream import RetryPolicy
from ocf.functions.execute.model_proxy.usage_meter import UsageMeter
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import ModelTarget

LOCAL = ModelTarget("local", "m", "openai", "http://127.0.0.1:9/v1", SecretStr("sk-0123456789"))
OPENAI = ModelTarget("openai", "gpt-5", "openai", "https://api.openai.com/v1", max_tokens=9)
TOOLS = [{"type": "function", "function": {"name": "bash"}}, {"name": "read"}]


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n\n"


STREAM = b"".join(
    [
        event({"choices": [{"delta": {"content": "äöü"}}], "usage": None}),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [], "usage": {
            "prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }}),
        event("[DONE]"),
    ]
)  # fmt: skip


@given(st.lists(st.integers(0, len(STREAM)), max_size=10), st.booleans(), st.booleans())
def test_a_stream_cut_anywhere_is_passed_and_counted_the_same(cuts: list[int], hide: bool, crlf: bool) -> None:
    """Whole events come out whatever the packets were; cached tokens are counted once; only our usage is hidden."""
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    meter = UsageMeter("chat", hide_usage=hide)
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [meter.feed(stream[a:b]) for a, b in pairwise(edges)]
    assert all(piece == b"" or piece.endswith(b"\n\n") for piece in pieces)
    out = b"".join(pieces) + meter.remainder()
    assert out == (STREAM.replace(STREAM.split(b"\n\n")[2] + b"\n\n", b"") if hide else STREAM)
    usage = meter.usage()
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, usage.reasoning_tokens) == (8, 4, 5, 2)
    assert meter.finished
    assert not meter.failed


def test_an_answer_without_usage_is_estimated() -> None:
    """Four bytes of request and one piece of answer are a token each; a budget cannot be dodged by silence."""
    meter = UsageMeter("chat")
    meter.feed(event({"choices": [{"delta": {"content": "a"}}]}) * 3)
    assert not meter.finished
    assert not meter.reported
    assert (meter.usage(100).input_tokens, meter.usage(100).output_tokens) == (100, 3)
    meter.feed(event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}))
    assert (meter.usage(100).input_tokens, meter.usage(100).output_tokens) == (100, 3)


def test_an_error_inside_a_stream_is_noticed() -> None:
    """An overloaded provider may say so after a 200."""
    meter = UsageMeter("messages")
    meter.feed(b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n')
    assert meter.failed


@pytest.mark.parametrize(("wire", "target", "body", "field"), [
    ("chat", LOCAL, {"max_tokens": 5}, "max_tokens"),
    ("chat", LOCAL, {"max_completion_tokens": 5}, "max_completion_tokens"),
    ("chat", OPENAI, {"max_tokens": 5}, "max_completion_tokens"),
    ("responses", LOCAL, {}, "max_output_tokens"),
    ("messages", LOCAL, {"max_tokens": 5}, "max_tokens"),
])  # fmt: skip
def test_max_tokens_has_the_name_the_provider_reads(
    wire: Wire, target: ModelTarget, body: dict[str, Any], field: str
) -> None:
    """One field only, the right one."""
    out, _ = rewrite(wire, body, replace(target, max_tokens=9))
    assert {name: out[name] for name in out if "max" in name} == {field: 9}


def test_tools_that_are_not_enabled_are_taken_out() -> None:
    """In every form a tool may have; without any tool the choice between them goes too."""
    out, _ = rewrite("chat", {"tools": TOOLS}, replace(LOCAL, enabled_tools=("read",)))
    assert out["tools"] == [{"name": "read"}]
    out, _ = rewrite("chat", {"tools": TOOLS, "tool_choice": "auto"}, replace(LOCAL, enabled_tools=()))
    assert "tools" not in out
    assert "tool_choice" not in out


def test_fields_without_a_setting_stay_as_the_agent_sent_them() -> None:
    """Without wishes only the model's name changes."""
    body = {"model": "x", "temperature": 0.7, "max_tokens": 5, "tools": TOOLS, "stream": False}
    assert rewrite("chat", body, LOCAL) == ({**body, "model": "m"}, False)


def test_headers_of_the_agent_do_not_reach_the_provider() -> None:
    """Neither its token nor anything it could smuggle."""
    sent = {"authorization": "Bearer token", "cookie": "a=b", "openai-organization": "x", "host": "127.0.0.1"}
    headers = upstream_headers(LOCAL, sent)
    assert headers["authorization"] == "Bearer sk-0123456789"
    assert not {"cookie", "openai-organization", "host"} & set(headers)


@pytest.mark.parametrize(("headers", "token"), [
    ({"authorization": "Bearer abc"}, "abc"), ({"authorization": "bearer abc "}, "abc"), ({"x-api-key": "abc"}, "abc"),
    ({"authorization": "Basic abc"}, ""), ({}, ""), ({"authorization": "Basic x", "x-api-key": "abc"}, "abc"),
])  # fmt: skip
def test_the_token_is_read_from_either_header(headers: dict[str, str], token: str) -> None:
    """OpenAI's and Anthropic's way."""
    assert presented_token(headers) == token


@pytest.mark.parametrize("raw", [b"", b"[]", b"nonsense", b'"x"', b"\xff"])
async def test_a_body_that_is_no_object_is_a_bad_request(raw: bytes) -> None:
    """With its own error, not a crash."""
    with pytest.raises(BadRequest):
        await read(bytearray(raw))


@pytest.mark.parametrize("wire", ["chat", "messages", "responses"])
def test_canned_answers_are_complete(wire: Wire) -> None:
    """Streamed and whole."""
    for stream in (True, False):
        meter = UsageMeter(wire)
        _, body = canned(wire, stream)
        if stream:
            assert meter.feed(body) == body
        else:
            meter.whole(body)
        assert meter.finished


def test_waits_grow_up_to_the_cap() -> None:
    """Four times as long each, capped, less up to half by chance."""
    policy = RetryPolicy(base=0.5, cap=10)
    assert [policy.wait(n, 0) for n in range(1, 5)] == [0.5, 2, 8, 10]
    assert policy.wait(2, 1) == 1
